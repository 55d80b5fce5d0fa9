//! S3 paths, `bucket/key`, and bucket names (contract service.md, section 3.4).
//!
//! [`S3Path::parse`] checks the syntax, which allows `.` and `..` in keys. A key that becomes a
//! path on a disk must pass [`check_segments`] as well.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::unicode;

/// Most UTF-8 bytes in a key; an S3 limit.
const MAX_KEY_BYTES: usize = 1024;

/// Characters of a bucket name; S3 limits.
const BUCKET_CHARS: std::ops::RangeInclusive<usize> = 3..=63;

/// A bucket name: 3 to 63 lower-case ASCII letters, digits and inner hyphens, at least one a letter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket(String);

impl Bucket {
    /// Parses a bucket name; whitespace around it is removed.
    ///
    /// # Errors
    ///
    /// With the first rule broken.
    pub fn parse(text: &str) -> Result<Self, InvalidS3Path> {
        let fail = |violation| Err(InvalidS3Path::new(text, violation));
        let name = text.trim_matches(unicode::is_whitespace);
        if name.is_empty() {
            fail(Violation::BucketEmpty)
        } else if !BUCKET_CHARS.contains(&name.chars().count()) {
            fail(Violation::BucketLength)
        } else if name.contains('.') {
            fail(Violation::BucketPeriod)
        } else if name.starts_with('-') || name.ends_with('-') {
            fail(Violation::BucketHyphen)
        } else if !name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            || !name.bytes().any(|b| b.is_ascii_lowercase())
        {
            fail(Violation::BucketCharacters)
        } else {
            Ok(Self(name.to_owned()))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A bucket and the key of an object, or of a prefix, in it. Written `bucket/key`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct S3Path {
    bucket: Bucket,
    key: String,
}

impl S3Path {
    /// Number of code points that a path can have: the shortest bucket, a slash and one character,
    /// to the longest bucket, a slash and the longest key.
    pub const CHARS: std::ops::RangeInclusive<usize> =
        *BUCKET_CHARS.start() + 2..=*BUCKET_CHARS.end() + 1 + MAX_KEY_BYTES;

    /// Parses `bucket/key`. Whitespace in front and around the bucket is removed; the key is kept
    /// as it is, with trailing whitespace, a trailing `/`, `.` and `..`.
    ///
    /// # Errors
    ///
    /// With the first rule broken, in the order of the contract.
    pub fn parse(text: &str) -> Result<Self, InvalidS3Path> {
        let fail = |violation| Err(InvalidS3Path::new(text, violation));
        let path = text.trim_start_matches(unicode::is_whitespace);
        if path.is_empty() {
            return fail(Violation::Empty);
        }
        if path.starts_with('/') {
            return fail(Violation::LeadingSlash);
        }
        let Some((bucket, key)) = path.split_once('/') else {
            return fail(Violation::NoKey);
        };
        let bucket =
            Bucket::parse(bucket).map_err(|fault| InvalidS3Path::new(text, fault.violation))?;
        if key.is_empty() {
            fail(Violation::NoKey)
        } else if key.starts_with('/') {
            fail(Violation::KeyLeadingSlash)
        } else if key.len() > MAX_KEY_BYTES {
            fail(Violation::KeyTooLong)
        } else if key.contains(['\'', ';']) || key.contains("//") {
            fail(Violation::IllegalCharacters)
        } else if key.contains(unicode::is_control) {
            fail(Violation::ControlCharacter)
        } else {
            Ok(Self {
                bucket,
                key: key.to_owned(),
            })
        }
    }

    /// The bucket.
    #[must_use]
    pub const fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The key: never empty, at most 1024 bytes.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Checks that the key can become a path on a disk; see [`check_segments`].
    ///
    /// # Errors
    ///
    /// With the first segment that cannot.
    pub fn check_segments(&self) -> Result<(), UnsafeSegment> {
        check_segments(&self.key)
    }
}

impl fmt::Display for S3Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, self.key)
    }
}

impl Serialize for S3Path {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for S3Path {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Checks that no segment of `path`, split at `/`, is `.`, `..` or empty, or has a NUL
/// (decisions.md, row 2).
///
/// Such segments are legal in keys but name another place on a disk, perhaps outside the input
/// directory. A path that ends in `/` has an empty last segment: it names a folder marker, which
/// holds no data and cannot be a file.
///
/// # Errors
///
/// With the first such segment.
pub fn check_segments(path: &str) -> Result<(), UnsafeSegment> {
    let is_unsafe = |segment: &&str| matches!(*segment, "" | "." | "..") || segment.contains('\0');
    match path.split('/').find(is_unsafe) {
        None => Ok(()),
        Some(segment) => Err(UnsafeSegment(segment.to_owned())),
    }
}

/// A segment of a path that cannot name a file or would leave the directory. The message continues
/// a sentence that starts with the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("has {}; rename the object so that each part between slashes is a file name", describe_segment(.0))]
pub struct UnsafeSegment(String);

fn describe_segment(segment: &str) -> String {
    if segment.is_empty() {
        "an empty segment (a slash at the end, or two in a row)".to_owned()
    } else {
        format!("the segment {segment:?}")
    }
}

/// The text is no S3 path, or no bucket name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{:?} is not valid: {violation}", abbreviated(text))]
pub struct InvalidS3Path {
    text: String,
    violation: Violation,
}

impl InvalidS3Path {
    fn new(text: &str, violation: Violation) -> Self {
        Self {
            text: text.to_owned(),
            violation,
        }
    }

    /// The rule broken.
    #[must_use]
    pub const fn violation(&self) -> Violation {
        self.violation
    }

    /// The contract's label of the rule broken.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        self.violation.kind()
    }
}

/// The start of `text`, short enough for an error message.
fn abbreviated(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    let mut start: String = text.chars().take(MAX_CHARS).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

/// The rules of S3 paths and buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Violation {
    #[error("an S3 path cannot be empty; write bucket/key")]
    Empty,
    #[error("an S3 path starts with the bucket; remove the leading slash")]
    LeadingSlash,
    #[error("there is no key after the bucket; write bucket/key")]
    NoKey,
    #[error("the bucket is empty; write bucket/key")]
    BucketEmpty,
    #[error("a bucket name has 3 to 63 characters")]
    BucketLength,
    #[error("a bucket name with a period is not supported; use another bucket")]
    BucketPeriod,
    #[error("a bucket name cannot start or end with a hyphen")]
    BucketHyphen,
    #[error(
        "a bucket name has only lower-case ASCII letters, digits and hyphens, and at least one letter"
    )]
    BucketCharacters,
    #[error("the key cannot start with a slash; remove the double slash after the bucket")]
    KeyLeadingSlash,
    #[error("the key is longer than 1024 bytes in UTF-8")]
    KeyTooLong,
    #[error("the key has one of ', ; and //; copy the object to a key without them")]
    IllegalCharacters,
    #[error(
        "the key has a control, format, private or unassigned character; copy the object to a key without it"
    )]
    ControlCharacter,
}

impl Violation {
    /// The contract's label.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::LeadingSlash => "leading_slash",
            Self::NoKey => "no_key",
            Self::BucketEmpty => "bucket_empty",
            Self::BucketLength => "bucket_length",
            Self::BucketPeriod => "bucket_period",
            Self::BucketHyphen => "bucket_hyphen",
            Self::BucketCharacters => "bucket_characters",
            Self::KeyLeadingSlash => "key_leading_slash",
            Self::KeyTooLong => "key_too_long",
            Self::IllegalCharacters => "illegal_characters",
            Self::ControlCharacter => "control_character",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_the_path_the_fault_and_the_next_step() {
        let error = S3Path::parse("buk//a").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#""buk//a" is not valid: the key cannot start with a slash; remove the double slash after the bucket"#
        );
        let error = S3Path::parse("buk/a/../b")
            .unwrap()
            .check_segments()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"has the segment ".."; rename the object so that each part between slashes is a file name"#
        );
    }

    #[test]
    fn refuses_segments_that_name_another_place() {
        for path in [
            "", "/", ".", "..", "a/", "/a", "a/../b", "a/./b", "a//b", "a/..", "./a",
        ] {
            assert!(check_segments(path).is_err(), "{path:?} passed");
        }
        for path in ["a", "a/b", "...", "a/.b/c..", " ", "a/ /b"] {
            assert_eq!(check_segments(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn serialises_as_text() {
        let path: S3Path = serde_json::from_str("\" buk/a b\"").unwrap();
        assert_eq!((path.bucket().as_str(), path.key()), ("buk", "a b"));
        assert_eq!(serde_json::to_string(&path).unwrap(), "\"buk/a b\"");
        assert!(serde_json::from_str::<S3Path>("\"buk\"").is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            if let Ok(path) = S3Path::parse(&text) {
                prop_assert_eq!(S3Path::parse(&path.to_string()), Ok(path));
            }
        }

        #[test]
        fn what_is_written_parses_to_the_same(text in "\\PC{0,2}[a-z0-9-]{3,10}\\s?/\\PC{1,40}") {
            if let Ok(path) = S3Path::parse(&text) {
                prop_assert_eq!(S3Path::parse(&path.to_string()), Ok(path));
            }
        }
    }
}
