//! Staging one item. The order of the steps is in [`super`].

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cts_shared::crc64nvme::Crc64Nvme;
use cts_shared::refdata_archive::ArchiveFormat;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::error::{RefdataError, StagingError};
use super::fingerprint::{self, Contents};
use super::listing::{Listing, ListingError, Origin};
use super::lock::{self, Lock};
use super::progress::StagingCounters;
use super::space::{Share, SpaceError};
use super::status::{self, Found};
use super::unpack::{ArchiveSource, Packing, UnpackError, Unpacking, make_read_only, unpack};
use super::verify::{self, Verification};
use super::{Item, RefdataStore, Staged, prune};
use crate::disk;
use crate::progress::Counters;
use crate::transfer::{ObjectStream, StreamRequest, TransferEngine, TransferError};

/// How long the work may take to end when it is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// The rest of a refused archive is read in steps of this many bytes.
const REST_BUFFER_BYTES: usize = 128 * 1024;

impl ArchiveSource for ObjectStream {
    fn size(&self) -> u64 {
        self.size()
    }

    fn read_at(&mut self, offset: u64, length: usize) -> io::Result<Bytes> {
        self.read_at(offset, length)
    }
}

/// See [`RefdataStore::stage`].
pub(super) async fn stage(
    store: &RefdataStore,
    item: &Item,
    engine: &TransferEngine,
    counters: Arc<StagingCounters>,
    cancel: &CancellationToken,
) -> Result<Staged, StagingError> {
    let stop = cancel.child_token();
    // Whoever drops this future stops the work too, which cleans up after itself.
    let _stop_when_dropped = stop.clone().drop_guard();
    unless_overdue(stage_until(store, item, engine, counters, &stop), &stop).await
}

/// Ends with the work, or some time after it was told to stop: a file system that hangs holds up its thread, which
/// keeps the lock and cleans up when it can, but not whoever waits.
async fn unless_overdue<T>(
    work: impl Future<Output = Result<T, StagingError>>,
    stop: &CancellationToken,
) -> Result<T, StagingError> {
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        biased;
        ended = work => ended,
        () = overdue => {
            tracing::warn!(
                "the staging does not end at once: its file system hangs, or there is much to remove; if this process \
                 ends before, the next staging cleans up"
            );
            Err(StagingError::Cancelled)
        }
    }
}

async fn stage_until(
    store: &RefdataStore,
    item: &Item,
    engine: &TransferEngine,
    counters: Arc<StagingCounters>,
    stop: &CancellationToken,
) -> Result<Staged, StagingError> {
    let packing = packing(item)?;
    let root = store.layout.root.clone();
    // Never made: it may be a mount point without its disk.
    let there = on_blocking_thread(move || match fs::read_dir(&root) {
        Ok(_) => Ok(()),
        Err(error) => Err(RefdataError::directory("use", &root)(error).into()),
    });
    there.await?;
    let path = store.layout.lock(&item.id);
    let lock = match Lock::take(&path, stop).await {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => return Err(StagingError::Cancelled),
        Err(error) if lock::is_read_only(&error) => {
            Err(RefdataError::directory("take the lock", &path)(error))
        }
        Err(error) => return Err(RefdataError::directory("take the lock", &path)(error).into()),
    };
    let staging = Staging {
        store: store.clone(),
        item: item.clone(),
        packing,
        engine: engine.clone(),
        counters,
        stop: stop.clone(),
        handle: Handle::current(),
    };
    on_blocking_thread(move || staging.run(lock)).await
}

/// How the object is packed, if its name can be used.
fn packing(item: &Item) -> Result<Packing, StagingError> {
    let name = file_name(item);
    // As for members of archives; what the unpacker makes of it, it checks itself.
    let is_usable = !matches!(name, "" | "." | "..") && !name.chars().any(char::is_control);
    if !is_usable {
        let object = item.object.clone();
        return Err(StagingError::UnusableName { object });
    }
    if !item.unpack {
        return Ok(Packing::Plain);
    }
    match ArchiveFormat::of_name(name) {
        Some((format, _)) => Ok(Packing::Archive(format)),
        None => Err(StagingError::UnknownArchive {
            object: item.object.clone(),
        }),
    }
}

/// The last part of the object's key.
fn file_name(item: &Item) -> &str {
    let key = &item.object.key;
    key.rsplit_once('/').map_or(key.as_str(), |(_, name)| name)
}

async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StagingError> + Send + 'static,
) -> Result<T, StagingError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(StagingError::Internal {
                cause: error.to_string(),
            })
        })
}

/// All that one staging needs. Its methods block.
struct Staging {
    store: RefdataStore,
    item: Item,
    packing: Packing,
    engine: TransferEngine,
    counters: Arc<StagingCounters>,
    stop: CancellationToken,
    handle: Handle,
}

impl Staging {
    /// Holds the lock to the end, also when nobody waits for that any more. Without one (the metadata is
    /// read-only) it only looks at what is there.
    fn run(&self, lock: Result<Lock, RefdataError>) -> Result<Staged, StagingError> {
        if let Some(contents) = self.find(lock.is_ok())? {
            self.check_origin(contents)?;
            return Ok(self.staged(contents, true));
        }
        let _lock = lock?;
        let layout = &self.store.layout;
        status::refuse_foreign(layout, &self.item.id)?;
        // What a killed staging left.
        prune::clear(layout, &self.item.id)?;
        let staged = self
            .fetch()
            .and_then(|(listing, tree)| self.publish(&listing, &tree));
        match staged {
            Ok(contents) => Ok(self.staged(contents, false)),
            Err(error) => {
                if let Err(left) = prune::clear(layout, &self.item.id) {
                    tracing::warn!("something of a failed staging is left: {left}");
                }
                Err(if self.stop.is_cancelled() {
                    StagingError::Cancelled
                } else {
                    error
                })
            }
        }
    }

    fn staged(&self, contents: Contents, was_there: bool) -> Staged {
        Staged {
            tree: self.store.tree(&self.item.id),
            files: contents.files,
            bytes: contents.bytes,
            was_there,
        }
    }

    /// What is there, if it is done and as it should be.
    fn find(&self, may_write: bool) -> Result<Option<Contents>, StagingError> {
        let (layout, id) = (&self.store.layout, &self.item.id);
        if !Found::of(layout, id)?.is_done() {
            return Ok(None);
        }
        let checked = fingerprint::check(layout, id);
        let tree = layout.tree(id);
        if let Some(contents) = checked.map_err(RefdataError::local("look at", &tree))? {
            return Ok(Some(contents));
        }
        tracing::info!("reading reference data {id} whole before it is used");
        let verification = match verify::compare_and_note(layout, id, may_write, &self.stop) {
            // Whatever the tree has, nothing says what it should have.
            Err(RefdataError::Listing(
                error @ (ListingError::Malformed { .. } | ListingError::TooLarge { .. }),
            )) => Verification::without_listing(&RefdataError::from(error)),
            compared => compared?,
        };
        if !verification.is_good() {
            return Err(StagingError::Damaged {
                id: id.clone(),
                tree,
                listing: layout.listing(id),
                verification: Box::new(verification),
            });
        }
        Ok(Some(verification.contents()))
    }

    fn origin(&self) -> Origin {
        Origin {
            crc64nvme: self.item.expected,
            unpack: self.item.unpack,
        }
    }

    /// An id does not say what it was staged from, and can be given to any object.
    fn check_origin(&self, contents: Contents) -> Result<(), StagingError> {
        let asked = self.origin();
        let Some(staged) = contents.origin.filter(|staged| *staged != asked) else {
            return Ok(());
        };
        Err(StagingError::OtherObject {
            object: self.item.object.clone(),
            asked,
            staged,
            listing: self.store.layout.listing(&self.item.id),
        })
    }

    /// Fetches and unpacks; once more if the bytes were not the registered ones: a bit can flip on the way.
    fn fetch(&self) -> Result<(Listing, Growing), StagingError> {
        let (error, earlier) = match self.fetch_once(None) {
            Err(error @ StagingError::ChecksumMismatch { actual, .. }) => (error, actual),
            // A zip's directory is read before all else; in its turn it came as it should.
            Err(error @ StagingError::Transfer(TransferError::ReadDifferently { .. })) => {
                (error, self.item.expected)
            }
            fetched => return fetched,
        };
        tracing::warn!("{error}; fetching it once more on a new connection");
        prune::clear(&self.store.layout, &self.item.id)?;
        self.counters.start_over();
        self.fetch_once(Some(earlier))
    }

    fn fetch_once(&self, earlier: Option<Crc64Nvme>) -> Result<(Listing, Growing), StagingError> {
        let request = StreamRequest {
            object: self.item.object.clone(),
            expected: self.item.expected,
            earlier,
        };
        // Of its own: bytes are counted when they are taken in.
        let counters = Arc::new(Counters::default());
        let opening = self.engine.stream(request, counters, &self.stop);
        let mut stream = self.handle.block_on(opening)?;
        let root = &self.store.layout.root;
        // An archive needs at least its own size, all but always.
        let share = self
            .store
            .space
            .promise(root, stream.size())
            .map_err(StagingError::space(&self.item.object, root))?;
        let tree = self.store.layout.staging(&self.item.id);
        let growing = self.begin_tree(&tree)?;
        let unpacked = unpack(
            &mut stream,
            &Unpacking {
                packing: self.packing,
                name: file_name(&self.item),
                tree: &tree,
                limits: &self.store.limits,
                counters: &self.counters,
                has_space: &|wanted| spend(&share, wanted),
                cancelled: &|| self.stop.is_cancelled(),
            },
        );
        match unpacked {
            Ok(mut listing) => {
                listing.origin = Some(self.origin());
                stream.finish()?;
                Ok((listing, growing))
            }
            Err(cause) => Err(self.explain(cause, stream, &share)),
        }
    }

    /// Makes the tree, known to be this metadata's from the beginning.
    fn begin_tree(&self, tree: &Path) -> Result<Growing, StagingError> {
        let mark = self.store.layout.unfinished_listing(&self.item.id);
        let listing = File::create_new(&mark).map_err(RefdataError::directory("make", &mark))?;
        // On the disk before the tree, which may be on another one: else a power cut leaves a tree that is nobody's.
        let metadata = self.store.layout.metadata_of(&self.item.id);
        sync_directory(&metadata)?;
        if let Some(parent) = metadata.parent() {
            sync_directory(parent)?;
        }
        fs::create_dir(tree).map_err(RefdataError::directory("make", tree))?;
        let tree = File::open(tree).map_err(RefdataError::local("open", tree))?;
        Ok(Growing { listing, tree })
    }

    /// What to say of an unpacking that failed: the first thing that went wrong.
    fn explain(&self, cause: UnpackError, stream: ObjectStream, share: &Share) -> StagingError {
        let no_space = |needed_bytes| StagingError::NoSpace {
            object: self.item.object.clone(),
            cause: share.refusal(needed_bytes),
        };
        let cause = match cause {
            UnpackError::Reserve { needed_bytes, .. } => return no_space(needed_bytes),
            UnpackError::DiskFull { path } => {
                let directory = &self.store.layout.root;
                if disk::is_out_of_files(directory).unwrap_or(false) {
                    return StagingError::NoMoreFiles {
                        object: self.item.object.clone(),
                        directory: directory.clone(),
                        path,
                    };
                }
                return no_space(1);
            }
            UnpackError::Cancelled if self.stop.is_cancelled() => return StagingError::Cancelled,
            cause => cause,
        };
        // An archive whose bytes were damaged on the way is no bad archive: the checksum tells, which needs
        // the rest of the bytes.
        let asks_the_checksum = cause.reason().is_some() || matches!(cause, UnpackError::Source(_));
        match asks_the_checksum.then(|| self.finish_refused(&cause, stream)) {
            Some(Err(error)) => error.into(),
            _ => StagingError::Unpack {
                object: self.item.object.clone(),
                cause,
            },
        }
    }

    /// Reads what is left of a refused archive, which may be most of it.
    fn finish_refused(
        &self,
        cause: &UnpackError,
        mut stream: ObjectStream,
    ) -> Result<Crc64Nvme, TransferError> {
        tracing::info!(
            "{} is refused: {cause}; reading the rest to see whether it came as it was registered",
            self.item.object
        );
        let mut buffer = vec![0; REST_BUFFER_BYTES];
        // An error is that of the end as well.
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            self.counters.add_downloaded(count as u64);
        }
        stream.finish()
    }

    /// Everything is there and right: gives the tree its name, and then the listing.
    fn publish(&self, listing: &Listing, growing: &Growing) -> Result<Contents, StagingError> {
        let (layout, id) = (&self.store.layout, &self.item.id);
        let (staging, tree) = (layout.staging(id), layout.tree(id));
        let (unfinished, finished) = (layout.unfinished_listing(id), layout.listing(id));
        listing
            .write(&growing.listing, &unfinished)
            .map_err(RefdataError::from)?;
        make_read_only(&staging).map_err(RefdataError::local("make read-only", &staging))?;
        sync_file_system(&staging)?;
        growing.check_at(&staging)?;
        fs::rename(&staging, &tree).map_err(RefdataError::local("give its name to", &staging))?;
        // Again: it is the listing that vouches for the tree.
        growing.check_at(&tree)?;
        sync_directory(&layout.root)?;
        fs::rename(&unfinished, &finished)
            .map_err(RefdataError::local("give its name to", &unfinished))?;
        sync_directory(&layout.metadata_of(id))?;
        let contents = Contents {
            files: listing.files.len() as u64,
            bytes: listing.bytes(),
            origin: listing.origin,
        };
        let fingerprint =
            fingerprint::of(layout, id).map_err(RefdataError::local("look at", &tree))?;
        verify::note_as_verified(layout, id, fingerprint, contents);
        Ok(contents)
    }
}

/// What was made for the tree.
#[derive(Debug)]
struct Growing {
    /// Empty, until the tree is complete.
    listing: File,
    /// The directory. While it is open no other one has its inode.
    tree: File,
}

impl Growing {
    /// Whoever works with other metadata or none at all may remove the tree at any time, and begin another.
    fn check_at(&self, path: &Path) -> Result<(), RefdataError> {
        let failed = RefdataError::local("look at", path);
        let look = || Ok((self.tree.metadata()?, fs::symlink_metadata(path)?));
        let (made, there) = look().map_err(failed)?;
        if (made.dev(), made.ino()) == (there.dev(), there.ino()) {
            return Ok(());
        }
        let cause = io::Error::other(
            "it is not the directory that was made; have nothing else stage into or clear this directory",
        );
        Err(RefdataError::local("publish", path)(cause))
    }
}

/// Has the names in a directory reach the disk, in the order in which they were given.
pub(super) fn sync_directory(directory: &Path) -> Result<(), RefdataError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(RefdataError::local("sync", directory))
}

/// Has everything reach the disk, modes too, before the tree can be seen.
fn sync_file_system(directory: &Path) -> Result<(), RefdataError> {
    File::open(directory)
        .and_then(|directory| Ok(rustix::fs::syncfs(directory)?))
        .map_err(RefdataError::local("sync", directory))
}

fn spend(share: &Share, wanted: RangeInclusive<u64>) -> Result<u64, UnpackError> {
    share.spend(wanted).map_err(|error| match error {
        SpaceError::NoSpace(refused) => UnpackError::Reserve {
            path: refused.directory,
            free_bytes: refused.free_bytes,
            reserve_bytes: refused.reserve_bytes,
            needed_bytes: refused.need_bytes,
        },
        SpaceError::Io(source) => UnpackError::Io {
            path: ".".to_owned(),
            source,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_cancels_does_not_wait_for_a_file_system_that_hangs() {
        let stop = CancellationToken::new();
        let hangs = std::future::pending::<Result<(), StagingError>>();
        stop.cancel();
        let told = tokio::time::Instant::now();
        let error = unless_overdue(hangs, &stop).await.unwrap_err();
        assert!(error.is_cancelled() && told.elapsed() <= STOP_GRACE + Duration::from_millis(10));

        let ends = async {
            tokio::time::sleep(STOP_GRACE / 2).await;
            Ok("cleaned up")
        };
        assert_eq!(unless_overdue(ends, &stop).await.unwrap(), "cleaned up");
    }
}
