//! One list of trust roots, made once, given to every client of the process: the certificates
//! bundled with the binary plus the system's (or those of `SSL_CERT_FILE`/`SSL_CERT_DIR`).
//!
//! A worker may have no certificate bundle at all, and a private CA may be only in the system's.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

mod certificate_refusal;

pub use certificate_refusal::certificate_refusal;

/// Name and version sent to every server.
pub const USER_AGENT: &str = concat!("cts/", env!("CARGO_PKG_VERSION"));

/// Characters of a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;

/// An HTTP client could not be built.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up TLS: {0}; check the certificates in SSL_CERT_FILE, if set")]
pub struct TlsError(String);

impl TlsError {
    /// From the error of whatever refused the settings.
    pub fn new(cause: &dyn std::error::Error) -> Self {
        Self(cause.to_string())
    }
}

/// Installs ring as the process's TLS provider. Call first thing in `main`; calling again is harmless.
pub fn install_provider() {
    // Fails only when a provider is installed already, which is what we want.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
}

/// Whom the process's clients trust.
#[derive(Debug)]
pub struct TrustRoots {
    /// Certificates bundled with the binary, then the system's.
    pub certificates: Vec<CertificateDer<'static>>,
    /// How many of them are the system's (or of `SSL_CERT_FILE`, `SSL_CERT_DIR`).
    pub system_count: usize,
    /// What of the system's could not be read, one text a file.
    pub problems: Vec<String>,
}

impl TrustRoots {
    fn load() -> Self {
        let mut certificates = webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec();
        let system = rustls_native_certs::load_native_certs();
        let system_count = system.certs.len();
        certificates.extend(system.certs);
        Self {
            certificates,
            system_count,
            problems: system.errors.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The trusted certificates. Loaded at first use, then kept.
#[must_use]
pub fn trust_roots() -> &'static TrustRoots {
    static ROOTS: OnceLock<TrustRoots> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let roots = TrustRoots::load();
        for error in &roots.problems {
            tracing::warn!(%error, "a system certificate file could not be read");
        }
        roots
    })
}

/// [`trust_roots`] as PEM, for a library that takes nothing else.
#[must_use]
pub fn trust_roots_pem() -> String {
    let certificates = trust_roots().certificates.iter();
    certificates
        .map(|certificate| {
            let text = base64::engine::general_purpose::STANDARD.encode(certificate);
            let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
            for line in text.as_bytes().chunks(PEM_LINE) {
                pem.push_str(&String::from_utf8_lossy(line));
                pem.push('\n');
            }
            pem + "-----END CERTIFICATE-----\n"
        })
        .collect()
}

fn client_config(verify: Verify) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?;
    Ok(match verify {
        Verify::Certificates => {
            let mut store = RootCertStore::empty();
            let (accepted, _ignored) =
                store.add_parsable_certificates(trust_roots().certificates.iter().cloned());
            if accepted == 0 {
                return Err(TlsError("no usable certificate authority".to_owned()));
            }
            builder.with_root_certificates(store).with_no_client_auth()
        }
        Verify::Nothing => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
            .with_no_client_auth(),
    })
}

/// Whether a client checks whom it talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// The server's certificate must lead to one of [`trust_roots`].
    Certificates,
    /// Any certificate will do (`S3_INSECURE`): for test systems with self-signed certificates.
    Nothing,
}

/// A builder for HTTP clients with the process's trust roots. Redirects are never followed, so that
/// a credential cannot travel to another host.
///
/// # Errors
/// When no usable certificate authority is found.
pub fn http_client_builder(verify: Verify) -> Result<reqwest::ClientBuilder, TlsError> {
    let tls = match verify {
        Verify::Nothing => client_config(verify)?,
        Verify::Certificates => {
            // Parsing the roots costs milliseconds; every client of the process shares one result.
            static CONFIG: OnceLock<ClientConfig> = OnceLock::new();
            if let Some(config) = CONFIG.get() {
                config.clone()
            } else {
                let config = client_config(verify)?;
                CONFIG.get_or_init(|| config).clone()
            }
        }
    };
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none()))
}

/// Accepts every certificate, still checks that the server owns the one it shows.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundled_roots_are_there_whatever_the_system_has() {
        let roots = TrustRoots::load();
        let bundled = roots.certificates.len() - roots.system_count;
        assert_eq!(bundled, webpki_root_certs::TLS_SERVER_ROOT_CERTS.len());
        assert!(bundled > 100, "{bundled}");
    }

    #[test]
    fn clients_are_made_from_the_roots() {
        assert!(client_config(Verify::Certificates).is_ok());
    }
}
