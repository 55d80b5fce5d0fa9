//! A refused server certificate, in words for whoever has to act.

use std::error::Error;
use std::io;

use rustls::CertificateError;

/// Why the server's certificate was refused and what to do, if that is what is behind `error`.
#[must_use]
pub fn certificate_refusal(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(reason)) = tls_error(error) {
            return Some(describe(reason));
        }
        next = error.source();
    }
    None
}

/// An IO error leaves the error that it carries out of the chain of sources.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    match error.downcast_ref::<io::Error>() {
        Some(io_error) => tls_error(io_error.get_ref()?),
        None => error.downcast_ref(),
    }
}

fn describe(reason: &CertificateError) -> String {
    let remedy = match reason {
        CertificateError::UnknownIssuer => {
            return "the server's certificate was issued by an authority that is not trusted here \
                    (unknown issuer); if it is the right server, put the authority's certificate \
                    (PEM) into a file and name that in SSL_CERT_FILE"
                .to_owned();
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "check the host name in the URL"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "renew it, or set this machine's clock"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "set this machine's clock"
        }
        _ => "have it replaced",
    };
    format!("the server's certificate was refused: {reason}; {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("request failed")]
    struct Request(#[source] io::Error);

    fn request(cause: rustls::Error) -> Request {
        // As hyper-rustls and tokio-rustls wrap it.
        let inner = io::Error::new(io::ErrorKind::InvalidData, cause);
        Request(io::Error::other(inner))
    }

    #[test]
    fn is_found_below_io_errors() {
        let words = certificate_refusal(&request(CertificateError::UnknownIssuer.into())).unwrap();
        assert!(words.contains("unknown issuer"), "{words}");
        assert!(words.contains("SSL_CERT_FILE"), "{words}");
    }

    #[test]
    fn says_what_is_wrong_and_what_to_do() {
        let words = certificate_refusal(&request(CertificateError::Expired.into())).unwrap();
        assert!(
            words.contains("xpired") && words.contains("renew"),
            "{words}"
        );
    }

    #[test]
    fn other_errors_are_none() {
        assert_eq!(certificate_refusal(&io::Error::other("reset")), None);
        assert_eq!(
            certificate_refusal(&request(rustls::Error::DecryptError)),
            None
        );
    }
}
