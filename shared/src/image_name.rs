//! Names of container images: `registry/repository:tag@digest` (contract service.md, section 9).
//!
//! The grammar is that of the [distribution reference], narrowed by the contract. A name is held in
//! its normal form: with its registry, and `library/` for Docker Hub's one-part names.
//!
//! [distribution reference]: https://github.com/distribution/reference/blob/main/reference.go

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;
use serde::Serialize;

/// The registry of names that have none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// The default registry's other name.
const DEFAULT_REGISTRY_ALIAS: &str = "index.docker.io";

/// The tag that is looked up where a name gives neither tag nor digest.
const DEFAULT_TAG: &str = "latest";

/// Longest registry and repository together, in characters.
const NAME_MAX_CHARS: usize = 255;

/// A parsed image name in its normal form.
///
/// ```
/// use cts_shared::image_name::ImageName;
///
/// let image: ImageName = "ubuntu:22.04".parse()?;
/// assert_eq!(image.name(), "docker.io/library/ubuntu");
/// assert_eq!((image.registry_host(), image.repository()), ("docker.io", "library/ubuntu"));
/// assert_eq!(image.tag(), Some("22.04"));
/// # Ok::<(), cts_shared::image_name::ImageNameError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageName {
    name: String,
    /// Bytes of `name` before the `/` that ends the registry.
    registry_len: usize,
    tag: Option<String>,
    digest: Option<String>,
}

/// How a name refers to a registered image: by digest where it has one, else by tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ImageLookup<'a> {
    /// By name and digest; a tag is ignored.
    Digest {
        /// Registry and repository.
        name: &'a str,
        /// `algorithm:hex`.
        digest: &'a str,
    },
    /// By name and tag, `latest` if none was given.
    Tag {
        /// Registry and repository.
        name: &'a str,
        /// The tag.
        tag: &'a str,
    },
}

/// The text is no image name. All are application code 30040.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    /// Nothing but white space.
    #[error("the image name is empty; give one such as ghcr.io/kbase/checkm2:1.0")]
    Empty,
    /// A character that no image name has.
    #[error(
        "image name {name:?} has the character {character:?}; only ASCII letters, digits and \
         @ : _ . / - may be used"
    )]
    IllegalCharacter {
        /// What was given.
        name: String,
        /// The first such character.
        character: char,
    },
    /// A part that breaks the grammar.
    #[error("image name {name:?}: {reason}")]
    Unparseable {
        /// What was given.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A digest of an algorithm or length that is not supported.
    #[error(
        "image name {name:?} has an unsupported digest; use sha256, sha384 or sha512 with its full \
         length (64, 96 or 128 hexadecimal digits)"
    )]
    UnsupportedDigest {
        /// What was given.
        name: String,
    },
}

impl ImageNameError {
    /// A stable label of the fault.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::IllegalCharacter { .. } => "illegal_character",
            Self::Unparseable { .. } => "unparseable",
            Self::UnsupportedDigest { .. } => "unsupported_digest",
        }
    }
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a constant that compiles")
}

static REGISTRY: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\A[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*(?::[0-9]+)?\z",
    )
});
static REPOSITORY_PART: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\A[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*\z"));
static TAG: LazyLock<Regex> = LazyLock::new(|| pattern(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\z"));
static DIGEST: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"\A[A-Za-z][A-Za-z0-9]*(?:[+._-][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}\z")
});
static BARE_DIGEST: LazyLock<Regex> = LazyLock::new(|| pattern(r"\A[0-9a-f]{64}\z"));

impl ImageName {
    /// Registry and repository: `ghcr.io/kbase/checkm2`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The registry, with its port if it has one: `ghcr.io`.
    #[must_use]
    pub fn registry_host(&self) -> &str {
        self.name.get(..self.registry_len).unwrap_or_default()
    }

    /// The repository within the registry: `kbase/checkm2`.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.name.get(self.registry_len + 1..).unwrap_or_default()
    }

    /// The tag, if one was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given: `algorithm:hex`.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// What a registry is asked for to register the image: by tag if there is one, else by digest,
    /// else by the bare name.
    #[must_use]
    pub fn registry_lookup(&self) -> String {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => format!("{}:{tag}", self.name),
            (None, Some(digest)) => format!("{}@{digest}", self.name),
            (None, None) => self.name.clone(),
        }
    }

    /// Which registered image the name means.
    #[must_use]
    pub fn db_lookup(&self) -> ImageLookup<'_> {
        match &self.digest {
            Some(digest) => ImageLookup::Digest {
                name: &self.name,
                digest,
            },
            None => ImageLookup::Tag {
                name: &self.name,
                tag: self.tag.as_deref().unwrap_or(DEFAULT_TAG),
            },
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ImageNameError::Empty);
        }
        let legal =
            |character: char| character.is_ascii_alphanumeric() || "@:_./-".contains(character);
        if let Some(character) = text.chars().find(|character| !legal(*character)) {
            return Err(ImageNameError::IllegalCharacter {
                name: text.to_owned(),
                character,
            });
        }
        let unparseable = |reason| ImageNameError::Unparseable {
            name: text.to_owned(),
            reason,
        };

        let (tagged, digest) = match text.split_once('@') {
            Some((tagged, digest)) => (tagged, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let (bare, tag) = match tagged.rsplit_once(':') {
            Some((bare, tag)) if !tag.contains('/') => (bare, Some(tag)),
            _ => (tagged, None),
        };
        if BARE_DIGEST.is_match(bare) {
            return Err(unparseable(
                "64 hexadecimal digits are an image id, not a name; write repository@sha256:...",
            ));
        }
        let (registry, repository) = match bare.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest)
            }
            _ => (DEFAULT_REGISTRY, bare),
        };
        if !REGISTRY.is_match(registry) {
            return Err(unparseable(
                "the part before the first '/' is no host name with optional port",
            ));
        }
        if !repository
            .split('/')
            .all(|part| REPOSITORY_PART.is_match(part))
        {
            return Err(unparseable(
                "each part of the repository consists of lower-case letters and digits, separated \
                 by '.', '_', '__' or '-'",
            ));
        }
        if tag.is_some_and(|tag| !TAG.is_match(tag)) {
            return Err(unparseable(
                "a tag has 1 to 128 letters, digits, '_', '.' and '-', and does not begin with '.' \
                 or '-'",
            ));
        }
        if let Some(digest) = digest {
            if !DIGEST.is_match(digest) {
                return Err(unparseable(
                    "a digest is written algorithm:hex, such as sha256: and 64 hexadecimal digits",
                ));
            }
            if !is_supported_digest(digest) {
                return Err(ImageNameError::UnsupportedDigest {
                    name: text.to_owned(),
                });
            }
        }

        let registry = if registry == DEFAULT_REGISTRY_ALIAS {
            DEFAULT_REGISTRY
        } else {
            registry
        };
        let library = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            "library/"
        } else {
            ""
        };
        let name = format!("{registry}/{library}{repository}");
        if name.len() > NAME_MAX_CHARS {
            return Err(unparseable(
                "registry and repository together are longer than 255 characters",
            ));
        }
        Ok(Self {
            name,
            registry_len: registry.len(),
            tag: tag.map(ToOwned::to_owned),
            digest: digest.map(ToOwned::to_owned),
        })
    }
}

fn is_supported_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return false;
    };
    let digits = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ports_and_tags_are_told_apart() {
        let image: ImageName = "localhost:5000/a/b".parse().unwrap();
        assert_eq!(
            (image.registry_host(), image.repository()),
            ("localhost:5000", "a/b")
        );
        assert_eq!(image.tag(), None);
        let image: ImageName = "localhost:5000/a/b:1".parse().unwrap();
        assert_eq!(image.tag(), Some("1"));
        assert_eq!(image.registry_lookup(), "localhost:5000/a/b:1");
    }

    #[test]
    fn a_digest_wins_over_a_tag_among_registered_images() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let image: ImageName = format!("ghcr.io/k/x:1@{digest}").parse().unwrap();
        assert_eq!(image.registry_lookup(), "ghcr.io/k/x:1");
        assert_eq!(
            image.db_lookup(),
            ImageLookup::Digest {
                name: "ghcr.io/k/x",
                digest: &digest
            }
        );
    }

    #[test]
    fn errors_say_what_to_change() {
        let message = |text: &str| text.parse::<ImageName>().unwrap_err().to_string();
        assert!(message("a b").contains("' '"));
        assert!(message("Ubuntu").contains("lower-case"));
        assert!(message("x@md5:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa").contains("sha256"));
    }

    proptest! {
        #[test]
        fn normal_form_is_stable(text in "([a-z.]{1,4}(:[0-9])?/)?[a-z_]{1,3}(/[a-z-]{1,3})?(:[a-zA-Z.]{1,3})?") {
            if let Ok(image) = text.parse::<ImageName>() {
                let again: ImageName = image.to_string().parse().unwrap();
                prop_assert_eq!(&again, &image);
                prop_assert_eq!(
                    format!("{}/{}", image.registry_host(), image.repository()),
                    image.name()
                );
            }
        }

        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = text.parse::<ImageName>();
        }
    }
}
