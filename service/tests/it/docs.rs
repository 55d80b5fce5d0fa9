//! The pages about the API: they work, and nothing in them is fetched from elsewhere.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use http_body_util::BodyExt;
use tower::ServiceExt;

use cts_service::router;

use crate::description::DOCUMENT;
use crate::test_app::TestApp;

#[tokio::test]
async fn the_document_is_served() {
    let app = TestApp::new();
    let answer = app.get("", "/openapi.json").await.expect(200);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(answer.json(), *DOCUMENT);
}

#[tokio::test]
async fn redoc_leads_to_the_page() {
    let app = TestApp::new();
    let answer = app.get("", "/redoc").await.expect(307);
    assert_eq!(answer.headers[header::LOCATION], "/docs");
    let answer = app.get("", "/docs/").await.expect(307);
    assert_eq!(answer.headers[header::LOCATION], "../docs");
}

#[tokio::test]
async fn behind_a_proxy_the_prefix_is_in_front() {
    let app = TestApp::with(|app| app.config.root_path = Some("/services/cts".to_owned()));
    let document = app.get("", "/openapi.json").await.expect(200).json();
    assert_eq!(document["servers"][0]["url"], "/services/cts");
    let answer = app.get("", "/redoc").await.expect(307);
    assert_eq!(answer.headers[header::LOCATION], "/services/cts/docs");
}

#[test]
fn the_program_prints_the_document() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cts-service"))
        .arg("openapi")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document, *DOCUMENT);
}

/// The values of an attribute in a page.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    html.split(&format!("{name}=\""))
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect()
}

#[tokio::test]
async fn all_that_the_page_names_is_served_here() {
    let app = TestApp::new();
    let answer = app.get("", "/docs").await.expect(200);
    assert_eq!(
        answer.headers[header::CONTENT_TYPE],
        "text/html; charset=utf-8"
    );
    let html = answer.text;
    let named = [attributes(&html, "src"), attributes(&html, "href")].concat();
    assert!(named.len() >= 4, "{named:?}");
    for name in named {
        let (content_type, first_bytes): (_, &[u8]) = match name.rsplit_once('.').unwrap().1 {
            "js" => ("text/javascript; charset=utf-8", b""),
            "css" => ("text/css; charset=utf-8", b""),
            "png" => ("image/png", b"\x89PNG"),
            other => panic!("{name}: {other}"),
        };
        // Relative to `/docs`, so that the page works behind a reverse proxy's prefix.
        let (headers, body) = fetch(&app, &format!("/{name}"), None).await;
        assert_eq!(headers[header::CONTENT_TYPE], content_type, "{name}");
        assert!(body.starts_with(first_bytes) && body.len() > 100, "{name}");
        // The same, compressed for who takes that.
        let (headers, small) = fetch(&app, &format!("/{name}"), Some("br;q=1, gzip")).await;
        match headers.get(header::CONTENT_ENCODING) {
            Some(coding) => {
                assert_eq!(coding, "gzip");
                assert!(small.starts_with(b"\x1f\x8b"), "{name}");
            }
            None => assert_eq!(small, body, "{name}"),
        }
    }
}

async fn fetch(
    app: &TestApp,
    path: &str,
    accept_encoding: Option<&str>,
) -> (axum::http::HeaderMap, Vec<u8>) {
    let mut request = Request::get(path);
    if let Some(codings) = accept_encoding {
        request = request.header(header::ACCEPT_ENCODING, codings);
    }
    let response = router::service(app.app.clone())
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 200, "{path}");
    let (parts, body) = response.into_parts();
    (
        parts.headers,
        body.collect().await.unwrap().to_bytes().to_vec(),
    )
}

#[tokio::test]
async fn nothing_is_fetched_from_elsewhere() {
    let app = TestApp::new();
    let page = app.get("", "/docs").await.expect(200);
    let policy = page.headers[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap();
    let mut directives = policy.split("; ");
    assert_eq!(directives.next(), Some("default-src 'none'"));
    for directive in directives {
        for source in directive.split(' ').skip(1) {
            let is_image = directive.starts_with("img-src") && source == "data:";
            assert!(
                is_image || ["'self'", "'none'"].contains(&source),
                "{directive}"
            );
        }
    }
    let initializer = app.get("", "/docs/initializer.js").await.expect(200).text;
    let css = fetch(&app, "/docs/swagger-ui.css", None).await.1;
    let css = String::from_utf8(css).unwrap();
    for text in [&page.text, &initializer] {
        for elsewhere in ["http:", "https:", "\"//", "'//"] {
            assert!(!text.contains(elsewhere), "{text}");
        }
    }
    assert!(
        !page.text.contains("<script>"),
        "the policy forbids scripts in the page"
    );
    assert!(
        initializer.contains("validatorUrl: null"),
        "else a validator elsewhere is asked"
    );
    for reference in css.split("url(").skip(1) {
        let reference = reference.trim_start_matches(['"', '\'']);
        assert!(reference.starts_with("data:"), "{}", &reference[..40]);
    }
    assert!(!css.contains("@import"));
}

#[tokio::test]
async fn nothing_else_is_below_the_page() {
    let app = TestApp::new();
    for path in [
        "/docs/../Cargo.toml",
        "/docs/..%2FCargo.toml",
        "/docs/%2e%2e",
        "/docs/..",
        "/docs/%2Fetc%2Fpasswd",
        "/docs/swagger-ui.css/x",
        "/docs/swagger-ui.css%00",
        "/docs/%FF",
        "/docs/index.html",
        "/docs/oauth2-redirect.html",
    ] {
        app.get("", path).await.expect_error(404, 40000);
    }
}
