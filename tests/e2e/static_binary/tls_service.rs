//! The service behind TLS, with a certificate of an authority made for the test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use axum::serve::Listener;
use axum::{Json, Router};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Whose certificate [`ServerCertificate::OfAnotherHost`] is.
pub(super) const OTHER_HOST: &str = "other.cts.test";

/// What certificate the service shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerCertificate {
    /// For its own host, valid now.
    Good,
    /// Valid, but for [`OTHER_HOST`].
    OfAnotherHost,
    /// For its own host, valid until long ago.
    Expired,
}

/// A running service; it ends with the test's runtime.
#[derive(Debug)]
pub(super) struct TlsService {
    /// The service root.
    pub(super) url: String,
    /// The certificate of the authority, which no one else knows.
    pub(super) authority_pem: String,
    requests: Arc<AtomicUsize>,
}

impl TlsService {
    /// Serves on a free port of 127.0.0.1 what clients call `host`.
    pub(super) async fn start(host: &str, certificate: ServerCertificate) -> Self {
        let authority = authority();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{host}:{}/", tcp.local_addr().unwrap().port());
        let config = server_config(&authority, host, certificate);
        let listener = TlsListener {
            tcp,
            tls: TlsAcceptor::from(Arc::new(config)),
        };
        let requests = Arc::new(AtomicUsize::new(0));
        let router = Router::new()
            .route("/", get(root))
            .route("/whoami", get(who_am_i))
            .layer(from_fn_with_state(Arc::clone(&requests), count));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url,
            authority_pem: authority.pem(),
            requests,
        }
    }

    /// How many requests came through.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "authority of the CTS tests");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn server_config(
    authority: &CertifiedIssuer<'static, KeyPair>,
    host: &str,
    certificate: ServerCertificate,
) -> ServerConfig {
    let host = match certificate {
        ServerCertificate::OfAnotherHost => OTHER_HOST,
        ServerCertificate::Good | ServerCertificate::Expired => host,
    };
    let mut params = CertificateParams::new([host.to_owned()]).unwrap();
    if certificate == ServerCertificate::Expired {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap()
}

/// Connections after their handshake.
struct TlsListener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.tcp).await;
            // A client that refuses the certificate hangs up; that is what some tests are about.
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

async fn count(State(requests): State<Arc<AtomicUsize>>, request: Request, next: Next) -> Response {
    requests.fetch_add(1, Ordering::Relaxed);
    next.run(request).await
}

async fn root() -> Json<Value> {
    Json(json!({
        "service_name": "CDM Task Service",
        "version": "0.1.0-prototype6",
        "git_hash": "e2e",
        "server_time": "2031-02-03T04:05:06.070809Z",
        "notes": "This is the TLS service of the end-to-end tests",
    }))
}

async fn who_am_i() -> Json<Value> {
    Json(json!({ "user": "e2e_user", "roles": [], "allowed_paths": [] }))
}
