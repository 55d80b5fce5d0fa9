//! The files that workers download.

use std::path::PathBuf;

use axum::body::Body;
use axum::extract::Request;

use crate::test_app::TestApp;

const EXECUTABLE: &str = "/external_exec/files/condor/executable.sh";
const ARCHIVE: &str = "/external_exec/files/code_archive.tgz";

fn request(header: &str, value: &str) -> Request {
    Request::get(EXECUTABLE)
        .header(header, value)
        .body(Body::empty())
        .unwrap()
}

#[tokio::test]
async fn a_file_is_served_whole_in_part_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cts-executor");
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    let app = TestApp::with(|app| app.config.worker_files.executable = Some(file));
    let answer = app.get("", EXECUTABLE).await.expect(200);
    assert_eq!(answer.text, "#!/bin/sh\n");
    assert_eq!(answer.headers["content-type"], "text/x-sh; charset=utf-8");
    assert_eq!(
        answer.headers["content-disposition"],
        "attachment; filename=\"executable.sh\""
    );
    let etag = answer.headers["etag"].to_str().unwrap().to_owned();
    let modified = answer.headers["last-modified"].to_str().unwrap().to_owned();

    let part = app.send(request("range", "bytes=2-5")).await.expect(206);
    assert_eq!(part.text, "/bin");
    assert_eq!(part.headers["content-range"], "bytes 2-5/10");
    let outside = app.send(request("range", "bytes=10-")).await.expect(416);
    assert_eq!(outside.headers["content-range"], "bytes */10");
    app.send(request("if-none-match", &etag)).await.expect(304);
    app.send(request("if-modified-since", &modified))
        .await
        .expect(304);
    app.send(request("if-none-match", "\"other\""))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_file_that_is_not_there_is_404_with_a_reason() {
    let app = TestApp::with(|app| {
        app.config.worker_files.archive = Some(PathBuf::from("/nowhere/code.tgz"));
    });
    for path in [EXECUTABLE, ARCHIVE] {
        let answer = app.get("", path).await.expect_error(404, 40000);
        assert!(
            answer.message().contains("is not served here"),
            "{}",
            answer.text
        );
        assert!(!answer.text.contains("nowhere"), "{}", answer.text);
    }
    app.call("", "HEAD", ARCHIVE, None).await.expect(405);
    app.call("", "PUT", ARCHIVE, None)
        .await
        .expect_error(405, None::<u32>);
}
