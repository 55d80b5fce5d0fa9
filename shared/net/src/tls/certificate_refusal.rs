//! A refused server certificate, in words for whoever has to act.

use std::error::Error;
use std::io;

use rustls::CertificateError;

const SECONDS_OF_A_DAY: u64 = 24 * 60 * 60;

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
    match reason {
        CertificateError::UnknownIssuer => {
            "the server's certificate was issued by an authority that is not trusted here (unknown \
             issuer); if it is the right server, put the authority's certificate (PEM) into a file \
             and name that in SSL_CERT_FILE"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the server's {reason}; check the host name in the URL")
        }
        CertificateError::ExpiredContext { time, not_after } => {
            let seconds = time.as_secs().saturating_sub(not_after.as_secs());
            format!(
                "the server's certificate expired {} days ago; have it renewed, or set this \
                 machine's clock",
                seconds / SECONDS_OF_A_DAY
            )
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let seconds = not_before.as_secs().saturating_sub(time.as_secs());
            format!(
                "the server's certificate is not valid for another {} days; set this machine's \
                 clock, or have it replaced",
                seconds / SECONDS_OF_A_DAY
            )
        }
        _ => format!("the server's certificate is refused: {reason}; have it replaced"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::UnixTime;

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
        let expired = CertificateError::ExpiredContext {
            time: UnixTime::since_unix_epoch(Duration::from_secs(1_000_000)),
            not_after: UnixTime::since_unix_epoch(Duration::from_secs(800_000)),
        };
        let words = certificate_refusal(&request(expired.into())).unwrap();
        assert!(
            words.contains("expired 2 days ago; have it renewed"),
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
