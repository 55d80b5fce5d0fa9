//! CRC-64/NVME, the checksum every object of the system carries.
//!
//! S3 writes it as `x-amz-checksum-crc64nvme`: base64 of the value's eight big-endian bytes, always
//! 12 characters. It is a *full-object* checksum: the value of a whole object follows from those of
//! its parts ([`Crc64Nvme::combine`]), so parts may be hashed in any order, each on its own.
//!
//! The parameters are those of the [NVM Express specification]; the computing is crc-fast's.
//!
//! [NVM Express specification]: https://nvmexpress.org/specifications/

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::{CrcAlgorithm, Digest, checksum, checksum_combine};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The CRC-64/NVME of some bytes. Displays, parses and serialises as base64, S3's form.
///
/// ```
/// use cts_shared::crc64nvme::Crc64Nvme;
///
/// let whole = Crc64Nvme::of(b"123456789");
/// assert_eq!(whole.to_string(), "rosUhgp5mIg=");
/// assert_eq!(Crc64Nvme::of(b"12345").combine(Crc64Nvme::of(b"6789"), 4), whole);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Crc64Nvme(u64);

impl Crc64Nvme {
    /// The checksum of no bytes at all.
    pub const EMPTY: Self = Self(0);

    /// Wraps a value computed elsewhere.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The checksum as a number.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The checksum of these bytes. For bytes that come in pieces see [`Crc64NvmeHasher`].
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(checksum(CrcAlgorithm::Crc64Nvme, bytes))
    }

    /// The checksum of `self`'s bytes followed by `next`'s, of which there are `next_len`.
    #[must_use]
    pub fn combine(self, next: Self, next_len: u64) -> Self {
        if next_len == 0 {
            return self;
        }
        // Most objects have one part, and crc-fast takes a tenth of a millisecond to add it to nothing.
        if self == Self::EMPTY {
            return next;
        }
        Self(checksum_combine(
            CrcAlgorithm::Crc64Nvme,
            self.0,
            next.0,
            next_len,
        ))
    }

    /// Parses base64 of the eight big-endian bytes: exactly 12 characters of the standard alphabet,
    /// the last one `=`.
    ///
    /// # Errors
    ///
    /// [`InvalidCrc64Nvme`] for everything else, among it S3's composite checksums (`…=-3`).
    pub fn from_base64(text: &str) -> Result<Self, InvalidCrc64Nvme> {
        let invalid = || InvalidCrc64Nvme {
            text: shortened(text),
        };
        let bytes = STANDARD.decode(text).map_err(|_| invalid())?;
        let bytes: [u8; 8] = bytes.try_into().map_err(|_| invalid())?;
        Ok(Self(u64::from_be_bytes(bytes)))
    }
}

/// Errors quote at most this many characters of what they refuse.
const QUOTED_CHARS: usize = 40;

fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Display for Crc64Nvme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0.to_be_bytes()))
    }
}

impl fmt::Debug for Crc64Nvme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crc64Nvme({self})")
    }
}

/// The text is not a CRC64NVME checksum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a CRC64NVME checksum; give the base64 of its 8 bytes, 12 characters such as \
     \"rosUhgp5mIg=\", of the whole object (no \"-N\" at the end)"
)]
pub struct InvalidCrc64Nvme {
    text: String,
}

impl FromStr for Crc64Nvme {
    type Err = InvalidCrc64Nvme;

    fn from_str(text: &str) -> Result<Self, InvalidCrc64Nvme> {
        Self::from_base64(text)
    }
}

impl Serialize for Crc64Nvme {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Crc64Nvme {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::from_base64(&text).map_err(de::Error::custom)
    }
}

/// Computes a [`Crc64Nvme`] over bytes that come in pieces.
#[derive(Debug, Clone)]
pub struct Crc64NvmeHasher {
    digest: Digest,
}

impl Crc64NvmeHasher {
    /// A hasher that has seen no bytes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            digest: Digest::new(CrcAlgorithm::Crc64Nvme),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// The checksum of all bytes taken.
    #[must_use]
    pub fn finish(&self) -> Crc64Nvme {
        Crc64Nvme(self.digest.finalize())
    }

    /// The number of bytes taken.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.digest.get_amount()
    }
}

impl Default for Crc64NvmeHasher {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// crc64fast-nvme: another implementation.
    fn oracle(bytes: &[u8]) -> Crc64Nvme {
        let mut digest = crc64fast_nvme::Digest::new();
        digest.write(bytes);
        Crc64Nvme(digest.sum64())
    }

    #[test]
    fn check_value() {
        assert_eq!(Crc64Nvme::of(b"123456789").value(), 0xAE8B_1486_0A79_9888);
        assert_eq!(Crc64Nvme::of(b"123456789").to_string(), "rosUhgp5mIg=");
        assert_eq!(Crc64Nvme::of(b""), Crc64Nvme::EMPTY);
        assert_eq!(Crc64Nvme::EMPTY.to_string(), "AAAAAAAAAAA=");
        assert_eq!(Crc64NvmeHasher::new().finish(), Crc64Nvme::EMPTY);
    }

    #[test]
    fn only_twelve_character_base64_is_parsed() {
        let longer = "x".repeat(10_000);
        for text in [
            "",
            "rosUhgp5mIg",
            "rosUhgp5mIg==",
            " rosUhgp5mIg=",
            "rosUhgp5mIg=\n",
            "rosUhgp5mIg=-3",
            "rosUhgp5mI-=",
            // Not canonical: the last character carries bits that the 8 bytes do not have.
            "rosUhgp5mIh=",
            "AAAAAAAAAAAA",
            "AAAA",
            longer.as_str(),
        ] {
            let error = Crc64Nvme::from_base64(text).unwrap_err().to_string();
            assert!(error.contains("12 characters"), "{error}");
            assert!(error.len() < 300, "{error}");
        }
    }

    #[test]
    fn serialises_as_a_string() {
        let crc = Crc64Nvme::of(b"123456789");
        assert_eq!(serde_json::to_string(&crc).unwrap(), "\"rosUhgp5mIg=\"");
        assert_eq!(
            serde_json::from_str::<Crc64Nvme>("\"rosUhgp5mIg=\"").unwrap(),
            crc
        );
        assert!(serde_json::from_str::<Crc64Nvme>("\"rosU\"").is_err());
        assert!(serde_json::from_str::<Crc64Nvme>("12").is_err());
    }

    proptest! {
        #[test]
        fn agrees_with_the_oracle(bytes in vec(any::<u8>(), 0..5000)) {
            prop_assert_eq!(Crc64Nvme::of(&bytes), oracle(&bytes));
        }

        #[test]
        fn any_chunking_equals_the_whole(chunks in vec(vec(any::<u8>(), 0..700), 0..8)) {
            let whole = oracle(&chunks.concat());
            let mut hasher = Crc64NvmeHasher::new();
            let mut combined = Crc64Nvme::EMPTY;
            for chunk in &chunks {
                hasher.update(chunk);
                combined = combined.combine(Crc64Nvme::of(chunk), chunk.len() as u64);
            }
            prop_assert_eq!(hasher.finish(), whole);
            prop_assert_eq!(hasher.len_bytes(), chunks.concat().len() as u64);
            prop_assert_eq!(combined, whole);
        }

        #[test]
        fn combine_with_empty_is_identity(value: u64, length: u64) {
            let crc = Crc64Nvme(value);
            prop_assert_eq!(crc.combine(Crc64Nvme::EMPTY, 0), crc);
            prop_assert_eq!(Crc64Nvme::EMPTY.combine(crc, length.max(1)), crc);
        }

        #[test]
        fn combine_is_associative(
            a: u64,
            b: u64,
            c: u64,
            b_len in 0..u64::MAX / 2,
            c_len in 0..u64::MAX / 2,
        ) {
            // Any value is that of some bytes, but only 0 is that of none.
            let [a, b, c] = [
                Crc64Nvme(a),
                Crc64Nvme(if b_len == 0 { 0 } else { b }),
                Crc64Nvme(if c_len == 0 { 0 } else { c }),
            ];
            prop_assert_eq!(
                a.combine(b, b_len).combine(c, c_len),
                a.combine(b.combine(c, c_len), b_len + c_len)
            );
        }

        #[test]
        fn base64_round_trips(value: u64) {
            let crc = Crc64Nvme(value);
            let text = crc.to_string();
            prop_assert_eq!(text.len(), 12);
            prop_assert_eq!(Crc64Nvme::from_base64(&text), Ok(crc));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,60}") {
            let _ = Crc64Nvme::from_base64(&text);
        }
    }
}
