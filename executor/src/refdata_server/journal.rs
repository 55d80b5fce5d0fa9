//! Notes of what was asked for and whose outcome the service has not taken yet: one file per item,
//! `METADATA/<id>/staging.json`. Everything here blocks.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cts_shared::crc64nvme::Crc64Nvme;
use cts_shared::id::RefdataId;
use cts_shared::s3_path::S3Path;
use cts_shared::site::Site;
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::refdata::RefdataUpdate;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::object_store::ObjectName;
use crate::refdata::Item;

/// A note is some hundred bytes, and an error's text more.
const MAX_NOTE_BYTES: u64 = 1024 * 1024;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) id: RefdataId,
    /// For whom: the site whose status the service keeps.
    pub(super) site: Site,
    pub(super) file: S3Path,
    pub(super) crc64nvme: Crc64Nvme,
    pub(super) unpack: bool,
    /// When it was asked for.
    pub(super) since: UtcTime,
    /// What came of it, if that is known: only the report is left to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<Outcome>,
}

/// How a staging ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Complete,
    Failed(RefdataUpdate),
}

impl Note {
    pub(super) fn item(&self) -> Item {
        Item {
            id: self.id.clone(),
            object: ObjectName::new(self.file.bucket().as_str(), self.file.key()),
            expected: self.crc64nvme,
            unpack: self.unpack,
        }
    }
}

/// Why a note could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {cause}; check the disk and the rights of Refdata.metadata_path")]
pub(super) struct JournalError {
    action: &'static str,
    path: PathBuf,
    cause: io::Error,
}

/// The notes below one directory.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    metadata: PathBuf,
}

impl Journal {
    pub(super) const fn new(metadata: PathBuf) -> Self {
        Self { metadata }
    }

    fn path(&self, id: &RefdataId) -> PathBuf {
        self.metadata.join(id.as_str()).join("staging.json")
    }

    /// Writes a note, instead of the one that may be there. On return it survives a power failure.
    pub(super) fn write(&self, note: &Note) -> Result<(), JournalError> {
        let path = self.path(&note.id);
        let failed = |cause| JournalError {
            action: "write",
            path: path.clone(),
            cause,
        };
        let directory = self.metadata.join(note.id.as_str());
        let write = || {
            fs::create_dir_all(&directory)?;
            let text = serde_json::to_vec(note)?;
            // A name of its own: another server over the same directories may write the same note.
            let mut file = NamedTempFile::with_prefix_in("staging.json.", &directory)?;
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            sync(&directory)?;
            sync(&self.metadata)
        };
        write().map_err(failed)
    }

    /// Removes a note, if it is there.
    pub(super) fn remove(&self, id: &RefdataId) -> Result<(), JournalError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(JournalError {
                action: "remove",
                path,
                cause,
            }),
            _ => Ok(()),
        }
    }

    /// All notes, the oldest first. One that cannot be read is left where it is and said: what it was about can
    /// be asked for again.
    pub(super) fn read_all(&self) -> Result<Vec<Note>, JournalError> {
        let failed = |cause| JournalError {
            action: "list",
            path: self.metadata.clone(),
            cause,
        };
        let mut notes = Vec::new();
        for entry in fs::read_dir(&self.metadata).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match read(&self.path(&id)) {
                Ok(Some(note)) if note.id == id => notes.push(note),
                Ok(Some(note)) => tracing::error!(
                    refdata.id = %id,
                    "the note staging.json is about {}; remove it and let the service ask again",
                    note.id
                ),
                Ok(None) => {}
                Err(cause) => tracing::error!(
                    refdata.id = %id,
                    "cannot read the note staging.json: {cause}; remove it and let the service ask again"
                ),
            }
        }
        notes.sort_by_key(|note| note.since);
        Ok(notes)
    }
}

fn read(path: &Path) -> io::Result<Option<Note>> {
    let text = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_NOTE_BYTES => {
            return Err(io::Error::other(format!(
                "it has {} bytes, more than any note",
                metadata.len()
            )));
        }
        Ok(_) => fs::read(path)?,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Makes new names in a directory survive a power failure.
fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(id: &str, since: &str) -> Note {
        Note {
            id: id.parse().unwrap(),
            site: Site::Kbase,
            file: S3Path::parse("bucket/db.tar.gz").unwrap(),
            crc64nvme: Crc64Nvme::of(b"x"),
            unpack: true,
            since: serde_json::from_value(since.into()).unwrap(),
            outcome: None,
        }
    }

    #[test]
    fn notes_come_back_the_oldest_first_until_they_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path().to_owned());
        let older = note("zz", "2031-01-01T00:00:00Z");
        let mut newer = note("aa", "2031-01-02T00:00:00Z");
        journal.write(&newer).unwrap();
        journal.write(&older).unwrap();
        newer.outcome = Some(Outcome::Failed(RefdataUpdate {
            admin_error: Some("no".to_owned()),
            traceback: None,
        }));
        journal.write(&newer).unwrap();
        assert_eq!(journal.read_all().unwrap(), [older.clone(), newer.clone()]);
        journal.remove(&older.id).unwrap();
        journal.remove(&older.id).unwrap();
        assert_eq!(journal.read_all().unwrap(), [newer]);
    }

    #[test]
    fn two_servers_may_write_the_same_note() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path().to_owned());
        std::thread::scope(|scope| {
            for _server in 0..2 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        journal
                            .write(&note("same", "2031-01-01T00:00:00Z"))
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(journal.read_all().unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_note_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path().to_owned());
        journal
            .write(&note("good", "2031-01-01T00:00:00Z"))
            .unwrap();
        fs::create_dir(directory.path().join("without")).unwrap();
        fs::write(directory.path().join("file"), "x").unwrap();
        fs::create_dir(directory.path().join("broken")).unwrap();
        fs::write(directory.path().join("broken/staging.json"), "{").unwrap();
        fs::create_dir(directory.path().join("other")).unwrap();
        fs::copy(
            directory.path().join("good/staging.json"),
            directory.path().join("other/staging.json"),
        )
        .unwrap();
        let ids: Vec<String> = journal
            .read_all()
            .unwrap()
            .iter()
            .map(|note| note.id.to_string())
            .collect();
        assert_eq!(ids, ["good"]);
        assert!(directory.path().join("broken/staging.json").exists());
    }
}
