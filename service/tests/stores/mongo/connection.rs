//! TLS and passwords.

use std::io::Write;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;

use cts_service::job_store::{JobStore, StoreError};
use cts_service::mongo::{MongoSettings, MongoStore};
use cts_shared::id::JobId;

use super::TestDatabase;

/// Set for the process that connects: the database's address.
const INNER: &str = "CTS_TEST_MONGO_TLS";

fn settings(host: String, database: &str) -> MongoSettings {
    MongoSettings {
        host,
        database: database.to_owned(),
        credentials: None,
        retry_writes: false,
    }
}

/// TLS in front of a server that has none; the certificate of its authority.
async fn tls_proxy(server: String) -> (u16, String) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else {
                    return;
                };
                let mut server = TcpStream::connect(server).await.unwrap();
                let _ended = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (port, authority.pem())
}

/// The store trusts whom the rest of the service trusts: a private authority in `SSL_CERT_FILE`, which is read
/// once in a process, so this test starts itself.
#[tokio::test(flavor = "multi_thread")]
async fn tls_trusts_the_systems_authorities() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    if let Ok(host) = std::env::var(INNER) {
        let opened = MongoStore::open(&settings(host, &database.name)).await;
        let unknown = JobId::new(uuid::Uuid::new_v4());
        let read = opened.unwrap().job_summary(unknown).await;
        assert_eq!(read.unwrap(), None);
        return;
    }
    let (port, authority) = tls_proxy(database.address()).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(authority.as_bytes()).unwrap();
    let url = format!("mongodb://localhost:{port}/?tls=true&directConnection=true");
    let mut inner = Command::new(std::env::current_exe().unwrap());
    let status = inner
        .args([
            "--exact",
            "mongo::connection::tls_trusts_the_systems_authorities",
        ])
        .env(INNER, &url)
        .env("SSL_CERT_FILE", file.path())
        .status()
        .await
        .unwrap();
    assert!(status.success(), "with the authority");

    let named = format!("{url}&tlsCAFile={}", file.path().display());
    let opened = MongoStore::open(&settings(named, &database.name)).await;
    opened.expect("with the authority in the connection string");

    let error = MongoStore::open(&settings(url, &database.name)).await;
    let error = error.expect_err("without the authority");
    assert!(matches!(error, StoreError::Connect { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

/// On a server that asks for passwords: `CTS_TEST_MONGO_AUTH` is its host and port, a database, and
/// a user and password of that database, with spaces between.
#[tokio::test]
async fn a_password_opens_the_database_and_a_wrong_one_is_told() {
    let Ok(auth) = std::env::var("CTS_TEST_MONGO_AUTH") else {
        let text = b"SKIPPED: passwords of MongoDB; CTS_TEST_MONGO_AUTH names no server\n";
        std::io::stderr().write_all(text).unwrap();
        return;
    };
    let [address, database, user, password] = *auth.split(' ').collect::<Vec<_>>().as_slice()
    else {
        panic!("CTS_TEST_MONGO_AUTH must have four words")
    };
    let open = async |password: &str| {
        let mut settings = settings(format!("mongodb://{address}"), database);
        settings.credentials = Some((user.to_owned(), password.to_owned().into()));
        MongoStore::open(&settings).await
    };
    let store = open(password).await.unwrap();
    let unknown = JobId::new(uuid::Uuid::new_v4());
    assert_eq!(store.job_summary(unknown).await.unwrap(), None);
    let error = open("canary").await.unwrap_err();
    assert!(matches!(error, StoreError::Connect { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("uthentication failed"), "{text}");
    assert!(!text.contains("canary"), "{text}");
}
