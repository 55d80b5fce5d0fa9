//! What the S3 adapter makes of answers that no well-behaved store on one machine gives.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cts_executor::object_store::s3::S3Store;
use cts_executor::object_store::{
    CompletedPart, GetRequest, ObjectName, ObjectStore, StoreError, StoreErrorKind,
};
use cts_net::s3::S3Settings;
use cts_net::secret::SecretSource;
use cts_net::tls::Verify;
use cts_shared::crc64nvme::Crc64Nvme;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

fn store(server: &MockServer, secret: &Path) -> S3Store {
    let settings = S3Settings {
        url: server.uri().parse().unwrap(),
        access_key: "key".to_owned(),
        secret: Arc::new(SecretSource::from_file(secret).unwrap()),
        verify: Verify::Certificates,
    };
    S3Store::new(settings).unwrap()
}

fn secret_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one").unwrap();
    file
}

fn document(status: u16, code: &str) -> ResponseTemplate {
    let body = format!("<Error><Code>{code}</Code><Message>in words</Message></Error>");
    ResponseTemplate::new(status).set_body_raw(body, "application/xml")
}

async fn get(store: &S3Store) -> Result<(), StoreError> {
    let object = ObjectName::new("bucket", "key");
    let request = GetRequest {
        object: &object,
        range: None,
        if_match: None,
        fresh_connection: false,
    };
    let get = tokio::time::timeout(Duration::from_secs(30), store.get(request));
    get.await.unwrap().map(drop)
}

/// What a GET makes of one answer.
async fn error_of(answer: ResponseTemplate) -> StoreError {
    let (server, secret) = (MockServer::start().await, secret_file());
    Mock::given(any()).respond_with(answer).mount(&server).await;
    get(&store(&server, secret.path())).await.unwrap_err()
}

#[tokio::test]
async fn a_refused_secret_is_read_again_and_used_if_it_changed() {
    let (server, secret) = (MockServer::start().await, secret_file());
    Mock::given(any())
        .respond_with(document(403, "SignatureDoesNotMatch"))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(200).set_body_string("body"))
        .mount(&server)
        .await;
    let store = store(&server, secret.path());
    std::fs::write(secret.path(), "two").unwrap();
    get(&store).await.unwrap();
    let signatures: Vec<_> = server
        .received_requests()
        .await
        .unwrap()
        .iter()
        .map(|request| request.headers.get("authorization").unwrap().clone())
        .collect();
    assert_eq!(signatures.len(), 2);
    assert_ne!(signatures.first(), signatures.last());
}

#[tokio::test]
async fn a_refused_secret_that_did_not_change_is_not_tried_again() {
    let (server, secret) = (MockServer::start().await, secret_file());
    Mock::given(any())
        .respond_with(document(403, "AccessDenied"))
        .expect(1)
        .mount(&server)
        .await;
    let error = get(&store(&server, secret.path())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot get s3://bucket/key: access denied; check the S3 keys and what they may do \
         (AccessDenied: in words, HTTP status 403)"
    );
}

#[tokio::test]
async fn a_clock_that_is_off_is_named() {
    let error = error_of(document(403, "RequestTimeTooSkewed")).await;
    assert_eq!(error.kind(), StoreErrorKind::ClockSkew);
    assert!(error.to_string().contains("set the clock (NTP)"), "{error}");
}

#[tokio::test]
async fn a_store_that_wants_rest_says_how_long() {
    let busy = document(503, "SlowDown").insert_header("retry-after", "7");
    let error = error_of(busy).await;
    assert_eq!(error.kind(), StoreErrorKind::Throttled);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert!(!error.is_permanent());
}

#[tokio::test]
async fn error_documents_of_any_size_and_kind_are_survived() {
    let html = "<html>".repeat(5_000_000);
    for (status, kind) in [
        (403, StoreErrorKind::AccessDenied),
        (404, StoreErrorKind::NotFound),
        (500, StoreErrorKind::Unavailable),
        (502, StoreErrorKind::Unavailable),
        (400, StoreErrorKind::Other),
    ] {
        let large = ResponseTemplate::new(status).set_body_string(&*html);
        let error = error_of(large).await;
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().len() < 1000);
        let small = ResponseTemplate::new(status).set_body_string("<not xml");
        assert_eq!(error_of(small).await.kind(), kind);
    }
}

#[tokio::test]
async fn an_error_document_in_a_successful_completion_is_an_error() {
    let (server, secret) = (MockServer::start().await, secret_file());
    Mock::given(any())
        .respond_with(document(200, "InternalError"))
        .mount(&server)
        .await;
    let store = store(&server, secret.path());
    let object = ObjectName::new("bucket", "key");
    let part = CompletedPart {
        number: 1,
        etag: "\"e\"".to_owned(),
        checksum: Crc64Nvme::EMPTY,
    };
    let error = store
        .complete_multipart(&object, "id", &[part], Crc64Nvme::EMPTY)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn no_server_is_named_with_its_cause() {
    let secret = secret_file();
    // Bound and not listened on.
    let unused = tokio::net::TcpSocket::new_v4().unwrap();
    unused.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let settings = S3Settings {
        url: format!("http://{}", unused.local_addr().unwrap())
            .parse()
            .unwrap(),
        access_key: "key".to_owned(),
        secret: Arc::new(SecretSource::from_file(secret.path()).unwrap()),
        verify: Verify::Certificates,
    };
    let error = get(&S3Store::new(settings).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.to_string().contains("Connection refused"), "{error}");
}
