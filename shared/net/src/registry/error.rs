//! Why an image could not be looked up, in words for the person who has to act.

use std::error::Error;
use std::time::Duration;

use oci_client::Reference;
use oci_client::errors::{OciDistributionError, OciEnvelope, OciErrorCode};
use oci_client::secrets::RegistryAuth;

use crate::tls::certificate_refusal;

/// Why an image could not be looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The text is not an image reference.
    #[error(
        "{reference:?} is not an image: {reason}; write registry/repository:tag or registry/repository@sha256:..."
    )]
    InvalidReference {
        /// The text.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The repository, tag or digest does not exist.
    #[error(
        "image {image} is not in its registry: {what} does not exist; check its spelling, and that it was pushed"
    )]
    NotFound {
        /// The image.
        image: String,
        /// Which part of the reference leads nowhere, such as `tag 1.0 of repository kbase/x`.
        what: String,
    },

    /// The registry refused the login, or asks for one.
    #[error("registry {registry} refused access to image {image} {}: {detail}; check the login for that registry, and that the image exists", if *anonymous { "without a login" } else { "with the given login" })]
    Denied {
        /// The registry.
        registry: String,
        /// The image.
        image: String,
        /// Whether no login was given.
        anonymous: bool,
        /// The registry's words.
        detail: String,
    },

    /// The image exists, for other platforms.
    #[error("image {image} is not there for {wanted}; it is there for: {available}")]
    WrongPlatform {
        /// The image.
        image: String,
        /// The platform needed, `os/architecture`.
        wanted: String,
        /// The platforms there are.
        available: String,
    },

    /// What the reference names is no container image.
    #[error("{image} is not a container image that can be run: {detail}")]
    NotAnImage {
        /// The image.
        image: String,
        /// What it is or lacks.
        detail: String,
    },

    /// The content is not what its digest says.
    #[error(
        "registry {registry} sent content for image {image} that does not match its digest: {detail}"
    )]
    DigestMismatch {
        /// The registry.
        registry: String,
        /// The image.
        image: String,
        /// Both digests.
        detail: String,
    },

    /// The registry asks to come back later.
    #[error(
        "registry {registry} limits the rate of requests; wait, or log in to get a higher limit"
    )]
    RateLimited {
        /// The registry.
        registry: String,
    },

    /// No connection: name lookup, network, TLS.
    #[error(
        "registry {registry} cannot be reached: {detail}; check its name, the network and the proxy settings"
    )]
    Unreachable {
        /// The registry.
        registry: String,
        /// The whole chain of causes.
        detail: String,
    },

    /// No answer in time.
    #[error("registry {registry} did not answer within {} s", after.as_secs())]
    TimedOut {
        /// The registry.
        registry: String,
        /// The deadline.
        after: Duration,
    },

    /// The registry failed, or answered in a way that makes no sense.
    #[error("registry {registry} failed: {detail}")]
    Failed {
        /// The registry.
        registry: String,
        /// Its words.
        detail: String,
    },

    /// The HTTP client could not be built.
    #[error(
        "cannot set up the registry client: {detail}; check the certificates in SSL_CERT_FILE, if set"
    )]
    ClientSetUp {
        /// Why.
        detail: String,
    },
}

impl RegistryError {
    /// Whether the same lookup would fail again however often it is repeated.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::InvalidReference { .. }
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::WrongPlatform { .. }
            | Self::NotAnImage { .. }
            | Self::ClientSetUp { .. } => true,
            Self::DigestMismatch { .. }
            | Self::RateLimited { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Failed { .. } => false,
        }
    }

    pub(super) fn from_client(
        image: &Reference,
        auth: &RegistryAuth,
        cause: OciDistributionError,
    ) -> Self {
        use OciDistributionError as E;
        let context = Context {
            image,
            anonymous: *auth == RegistryAuth::Anonymous,
        };
        match cause {
            E::UnauthorizedError { .. } => context.denied("not authorized"),
            E::AuthenticationFailure(detail) => context.denied(&detail),
            E::RegistryError { envelope, .. } => context.envelope(&envelope),
            E::ServerError { code, message, .. } => context.status(code, &message),
            E::ImageManifestNotFoundError(_) => context.not_found(),
            E::DigestError(error) => Self::DigestMismatch {
                registry: context.registry(),
                image: image.whole(),
                detail: error.to_string(),
            },
            E::RequestError(error) => context.request(&error),
            error @ (E::ManifestEncodingError(_)
            | E::ManifestParsingError(_)
            | E::VersionedParsingError(_)
            | E::UnsupportedMediaTypeError(_)
            | E::UnsupportedSchemaVersionError(_)) => Self::NotAnImage {
                image: image.whole(),
                detail: error.to_string(),
            },
            error => context.failed(&error.to_string()),
        }
    }
}

/// What was asked for.
struct Context<'a> {
    image: &'a Reference,
    anonymous: bool,
}

impl Context<'_> {
    fn registry(&self) -> String {
        self.image.registry().to_owned()
    }

    fn denied(&self, detail: &str) -> RegistryError {
        RegistryError::Denied {
            registry: self.registry(),
            image: self.image.whole(),
            anonymous: self.anonymous,
            detail: shorten(detail),
        }
    }

    fn failed(&self, detail: &str) -> RegistryError {
        RegistryError::Failed {
            registry: self.registry(),
            detail: shorten(detail),
        }
    }

    fn not_found(&self) -> RegistryError {
        let repository = self.image.repository();
        let what = match (self.image.digest(), self.image.tag()) {
            (Some(digest), _) => format!("digest {digest} in repository {repository}"),
            (None, tag) => format!("tag {} in repository {repository}", tag.unwrap_or("latest")),
        };
        RegistryError::NotFound {
            image: self.image.whole(),
            what,
        }
    }

    fn status(&self, code: u16, message: &str) -> RegistryError {
        match code {
            401 | 403 => self.denied(&format!("status {code} {message}")),
            404 => self.not_found(),
            429 => RegistryError::RateLimited {
                registry: self.registry(),
            },
            _ => self.failed(&format!("status {code} {message}")),
        }
    }

    fn envelope(&self, envelope: &OciEnvelope) -> RegistryError {
        let words: Vec<&str> = envelope
            .errors
            .iter()
            .map(|error| error.message.as_str())
            .collect();
        let words = words.join(", ");
        // The first error decides; registries send one.
        match envelope.errors.first().map(|error| &error.code) {
            Some(OciErrorCode::NameUnknown | OciErrorCode::NameInvalid) => {
                RegistryError::NotFound {
                    image: self.image.whole(),
                    what: format!("repository {}", self.image.repository()),
                }
            }
            Some(
                OciErrorCode::ManifestUnknown
                | OciErrorCode::NotFound
                | OciErrorCode::ManifestBlobUnknown
                | OciErrorCode::BlobUnknown
                | OciErrorCode::TagInvalid,
            ) => self.not_found(),
            Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => self.denied(&words),
            Some(OciErrorCode::Toomanyrequests) => RegistryError::RateLimited {
                registry: self.registry(),
            },
            Some(code) => self.failed(&format!("{code:?} {words}")),
            None => self.failed("an error without a reason"),
        }
    }

    fn request(&self, error: &reqwest::Error) -> RegistryError {
        // The chain's last element is the one that says what happened; the first names only the URL.
        let mut detail = error.to_string();
        if let Some(refusal) = certificate_refusal(error) {
            detail = format!("{detail}: {refusal}");
        } else {
            let mut source = error.source();
            while let Some(cause) = source {
                detail = format!("{detail}: {cause}");
                source = cause.source();
            }
        }
        RegistryError::Unreachable {
            registry: self.registry(),
            detail: shorten(&detail),
        }
    }
}

/// A registry's words, at a length fit for an error report.
fn shorten(text: &str) -> String {
    const MAX_CHARS: usize = 500;
    let text = text.trim();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => {
            let (start, _) = text.split_at(end);
            format!("{start}...")
        }
        None => text.to_owned(),
    }
}
