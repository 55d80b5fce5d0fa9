//! What a staged tree holds: every file with its size and checksums, and the links.
//!
//! On disk it is the contract's `md5.json` (contract service.md, section 10), with the CRC64NVME of each
//! file and the links as additions.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use cts_shared::crc64nvme::Crc64Nvme;
use cts_shared::wire::refdata::RefdataFile;
use serde::{Deserialize, Serialize};

use super::lock::open_to_read;

/// A listing's file of more bytes is not read: a million entries with paths of 800 bytes are within it.
const MAX_FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// The contents of a staged tree, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The regular files, sorted by path.
    pub files: Vec<RefdataFile>,
    /// The symbolic links, sorted by path. Not in the contract.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// What it was staged from; unknown of the existing server's. Not in the contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// The object that a tree was staged from, and what was done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Over the object's bytes.
    pub crc64nvme: Crc64Nvme,
    /// It was unpacked; else the tree is the one file.
    pub unpack: bool,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = if self.unpack { "unpacked" } else { "as it is" };
        write!(f, "CRC64NVME {}, {done}", self.crc64nvme)
    }
}

/// A symbolic link of a staged tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Path below the directory of the reference data.
    pub file: String,
    /// What it says.
    pub target: String,
}

/// A listing cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// The file system said no.
    #[error("listing {} cannot be {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The file is not a listing.
    #[error("{} is not a listing of reference data", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file is larger than any listing.
    #[error("listing {} has more than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
}

impl ListingError {
    /// What the file system said.
    #[must_use]
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Malformed { .. } | Self::TooLarge { .. } => None,
        }
    }
}

impl Listing {
    /// Sum of the files' sizes in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Whether the existing server wrote it: a walk that follows links to files and says nothing of other links.
    #[must_use]
    pub fn is_of_existing_server(&self) -> bool {
        let is_bare = |file: &RefdataFile| file.crc64nvme.is_none();
        self.origin.is_none() && self.links.is_empty() && self.files.iter().all(is_bare)
    }

    /// The paths of files and links.
    fn paths(&self) -> impl Iterator<Item = &str> {
        let files = self.files.iter().map(|file| file.file.as_str());
        files.chain(self.links.iter().map(|link| link.file.as_str()))
    }

    /// Sorts files and links by path.
    pub fn sort(&mut self) {
        self.files.sort_unstable_by(|a, b| a.file.cmp(&b.file));
        self.links.sort_unstable_by(|a, b| a.file.cmp(&b.file));
    }

    /// Reads `path`. The order of its entries is taken as it comes and sorted.
    ///
    /// # Errors
    /// [`ListingError`].
    pub fn load(path: &Path) -> Result<Self, ListingError> {
        let io_error = |source| ListingError::Io {
            path: path.to_owned(),
            action: "read",
            source,
        };
        let file = open_to_read(path).map_err(io_error)?;
        if file.metadata().map_err(io_error)?.len() > MAX_FILE_BYTES {
            return Err(ListingError::TooLarge {
                path: path.to_owned(),
                limit: MAX_FILE_BYTES,
            });
        }
        let reader = BufReader::new(file.take(MAX_FILE_BYTES));
        let mut listing: Self = serde_json::from_reader(reader).map_err(|error| {
            if error.is_io() {
                io_error(error.into())
            } else {
                ListingError::Malformed {
                    path: path.to_owned(),
                    source: error,
                }
            }
        })?;
        if let Some(bad) = listing.paths().find(|path| !is_inside(path)) {
            return Err(ListingError::Malformed {
                path: path.to_owned(),
                source: serde::de::Error::custom(format!("{bad:?} is no path inside a tree")),
            });
        }
        listing.sort();
        Ok(listing)
    }

    /// Writes the listing to `path`, to the disk itself. Give the name with `.tmp` and rename it when it may
    /// be seen.
    ///
    /// # Errors
    /// [`ListingError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), ListingError> {
        let io_error = |source| ListingError::Io {
            path: path.to_owned(),
            action: "written",
            source,
        };
        // A new file, and never what somebody else has put there.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
            _ => {}
        }
        self.write(&File::create_new(path).map_err(io_error)?, path)
    }

    /// Writes the listing to an empty file that is open, to the disk itself. `path`: the file's, for errors.
    ///
    /// # Errors
    /// [`ListingError::Io`].
    pub fn write(&self, file: &File, path: &Path) -> Result<(), ListingError> {
        let io_error = |source| ListingError::Io {
            path: path.to_owned(),
            action: "written",
            source,
        };
        let mut writer = BufWriter::new(file);
        serde_json::to_writer(&mut writer, self).map_err(|error| io_error(error.into()))?;
        writer.flush().map_err(io_error)?;
        writer.get_ref().sync_all().map_err(io_error)
    }
}

/// Whether a listed path stays below its tree: whoever can write a listing must not have other files read.
fn is_inside(path: &str) -> bool {
    let mut components = Path::new(path).components();
    !path.is_empty() && components.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_listing_leads_out_of_its_tree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("md5.json");
        for bad in ["/etc/hostname", "../x", "a/../../x", ""] {
            let listing = serde_json::json!({"files": [{"file": bad, "md5": "0", "size": 1}]});
            std::fs::write(&path, listing.to_string()).unwrap();
            let error = Listing::load(&path).unwrap_err();
            assert!(
                matches!(error, ListingError::Malformed { .. }),
                "{bad}: {error}"
            );
        }
    }

    fn file(path: &str) -> RefdataFile {
        RefdataFile {
            file: path.to_owned(),
            md5: "d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            size: 3,
            crc64nvme: Some(Crc64Nvme::EMPTY),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("md5.json.tmp");
        let mut listing = Listing {
            files: vec![file("b"), file("a/c")],
            links: vec![Link {
                file: "l".to_owned(),
                target: "b".to_owned(),
            }],
            origin: Some(Origin {
                crc64nvme: Crc64Nvme::EMPTY,
                unpack: true,
            }),
        };
        listing.save(&path).unwrap();
        listing.sort();
        assert_eq!(Listing::load(&path).unwrap(), listing);
        assert_eq!(listing.bytes(), 6);
    }

    #[test]
    fn the_existing_servers_listing_is_read_and_ours_without_links_looks_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("md5.json");
        let theirs =
            r#"{"files":[{"file":"a","md5":"d41d8cd98f00b204e9800998ecf8427e","size":0}]}"#;
        std::fs::write(&path, theirs).unwrap();
        let listing = Listing::load(&path).unwrap();
        assert_eq!(listing.files[0].crc64nvme, None);
        listing.save(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), theirs);
    }

    #[test]
    fn what_is_no_listing_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("md5.json");
        for text in ["", "[]", r#"{"files":[{"file":"a"}]}"#, r#"{"files":[]"#] {
            std::fs::write(&path, text).unwrap();
            let error = Listing::load(&path).unwrap_err();
            assert!(matches!(error, ListingError::Malformed { .. }), "{error:?}");
            assert!(error.to_string().contains("md5.json"), "{error}");
        }
        let missing = Listing::load(&dir.path().join("none")).unwrap_err();
        assert!(matches!(missing, ListingError::Io { .. }));
    }
}
