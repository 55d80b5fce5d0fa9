//! The store of reference data: what is on the disk after each way in which a staging can end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cts_executor::failure::Classify;
use cts_executor::object_store::faulty::{Fault, FaultyStore, Operation};
use cts_executor::object_store::memory::MemoryStore;
use cts_executor::object_store::{ObjectChecksum, ObjectName, ObjectStore};
use cts_executor::refdata::listing::{Link, Listing};
use cts_executor::refdata::unpack::remove_tree;
use cts_executor::refdata::{
    Item, ItemState, RefdataError, RefdataStore, Staged, StagingCounters, StagingError,
    StagingLimits,
};
use cts_executor::transfer::{RetryPolicy, TransferEngine, TransferOptions, TransferRuntime};
use cts_shared::crc64nvme::Crc64Nvme;
use cts_shared::failure::FailureCode;
use cts_shared::id::RefdataId;
use cts_shared::wire::refdata::RefdataLocalState;
use tokio_util::sync::CancellationToken;

use super::bed::{DEADLINE, eventually};

/// Files of an archive by path.
pub(crate) const FILES: [(&str, &str); 3] = [
    ("db/VERSION", "7\n"),
    ("db/models/a.hmm", "HMMER3/f"),
    ("readme", "text"),
];

/// A `.tar.gz` of [`FILES`].
pub(crate) fn archive() -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&tar()).unwrap();
    gzip.finish().unwrap()
}

/// A `.tar` of [`FILES`]: of each, 512 bytes of header and 512 of the file.
fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in FILES {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Every file below a directory.
pub(crate) fn tree(directory: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap().to_str().unwrap();
                files.insert(name.to_owned(), fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

/// What [`archive`] unpacks to.
pub(crate) fn files() -> BTreeMap<String, String> {
    FILES
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect()
}

/// Names in a directory.
pub(crate) fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Of the streams.
const PART_BYTES: usize = 64;

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

struct Bed {
    dir: tempfile::TempDir,
    memory: Arc<MemoryStore>,
    faulty: Arc<FaultyStore>,
    limits: StagingLimits,
    options: TransferOptions,
    counters: Arc<StagingCounters>,
    cancel: CancellationToken,
    runtime: TransferRuntime,
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Read-only trees: only root removes them without more ado.
        remove_tree(self.dir.path()).unwrap();
    }
}

impl Bed {
    fn new() -> Self {
        Self::with(|store| store)
    }

    /// With faults planned.
    fn with(plan: impl FnOnce(FaultyStore) -> FaultyStore) -> Self {
        let memory = Arc::new(MemoryStore::with_buckets(&["b"]).with_chunk_bytes(16));
        let inner: Arc<dyn ObjectStore> = Arc::clone(&memory) as _;
        Self {
            dir: tempfile::tempdir().unwrap(),
            memory,
            faulty: Arc::new(plan(FaultyStore::new(inner))),
            limits: StagingLimits {
                reserve_bytes: 0,
                ..StagingLimits::default()
            },
            options: TransferOptions {
                stream_part_bytes: PART_BYTES as u64,
                retry: RetryPolicy {
                    max_attempts: 3,
                    base_delay: Duration::from_millis(1),
                    max_delay: Duration::from_millis(2),
                    ..RetryPolicy::default()
                },
                ..TransferOptions::default()
            },
            counters: Arc::new(StagingCounters::default()),
            cancel: CancellationToken::new(),
            runtime: TransferRuntime::start().unwrap(),
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn store(&self) -> RefdataStore {
        let metadata = RefdataStore::default_metadata(&self.root());
        RefdataStore::new(self.root(), metadata, self.limits)
    }

    fn engine(&self) -> TransferEngine {
        let store: Arc<dyn ObjectStore> = Arc::clone(&self.faulty) as _;
        TransferEngine::new(store, self.options.clone(), &self.runtime)
    }

    /// Puts an object there; returns its item, `x`.
    fn item(&self, key: &str, body: &[u8]) -> Item {
        let object = ObjectName::new("b", key);
        let expected = Crc64Nvme::of(body);
        self.memory
            .insert(&object, body.to_vec(), ObjectChecksum::FullObject(expected));
        Item {
            id: id("x"),
            object,
            expected,
            unpack: true,
        }
    }

    async fn stage(&self, item: &Item) -> Result<Staged, StagingError> {
        let (store, engine) = (self.store(), self.engine());
        let counters = Arc::clone(&self.counters);
        let staging = store.stage(item, &engine, counters, &self.cancel);
        tokio::time::timeout(DEADLINE, staging).await.unwrap()
    }

    fn gets(&self) -> usize {
        self.faulty.calls().len()
    }

    /// There is a finished `x` with the archive's files, and nothing else.
    fn assert_staged(&self) {
        assert_eq!(names(&self.root()), set([".metadata", "x"]));
        assert_eq!(tree(&self.root().join("x")), files());
        let metadata = self.store().metadata_of(&id("x"));
        assert_eq!(names(&metadata), set(["lock", "md5.json", "verified.json"]));
    }

    /// Nothing is left that could be taken for anything.
    fn assert_nothing_is_left(&self) {
        assert_eq!(names(&self.root()), set([".metadata"]));
        let metadata = self.store().metadata_of(&id("x"));
        assert_eq!(names(&metadata), set(["lock"]));
        let status = self.store().status(&id("x")).unwrap();
        assert_eq!(status.state, RefdataLocalState::None);
        assert!(self.store().list().unwrap().is_empty());
    }
}

fn id(text: &str) -> RefdataId {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_staged_archive_is_complete_listed_read_only_and_staged_once() {
    let bed = Bed::new();
    let body = archive();
    let item = bed.item("data/db.tar.gz", &body);
    let staged = bed.stage(&item).await.unwrap();
    assert_eq!(
        (staged.files, staged.bytes, staged.was_there),
        (3, 14, false)
    );
    assert_eq!(staged.tree, bed.root().join("x"));
    bed.assert_staged();
    let mode = |path: &str| {
        let path = bed.root().join("x").join(path);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(
        (mode("db/VERSION"), mode("db"), mode("")),
        (0o444, 0o555, 0o555)
    );

    let status = bed.store().status(&item.id).unwrap();
    assert_eq!(status.state, RefdataLocalState::Done);
    let listed = status.files.unwrap();
    assert_eq!(listed[0].file, "db/VERSION");
    assert_eq!(listed[0].md5, "84bc3da1b3e33a18e8d5e1bdd7a18d7a");
    assert_eq!(listed[0].crc64nvme, Some(Crc64Nvme::of(b"7\n")));
    let progress = bed.counters.snapshot();
    assert_eq!(progress.downloaded_bytes, body.len() as u64);
    assert_eq!((progress.unpacked_files, progress.unpacked_bytes), (3, 14));

    let gets = bed.gets();
    let again = bed.stage(&item).await.unwrap();
    assert_eq!((again.files, again.bytes, again.was_there), (3, 14, true));
    assert_eq!(bed.gets(), gets, "nothing is fetched again");
}

#[tokio::test]
async fn an_object_that_is_no_archive_is_staged_as_it_is() {
    let bed = Bed::new();
    let mut item = bed.item("data/model.bin", b"model");
    item.unpack = false;
    bed.stage(&item).await.unwrap();
    let expected = BTreeMap::from([("model.bin".to_owned(), "model".to_owned())]);
    assert_eq!(tree(&bed.root().join("x")), expected);
}

#[tokio::test]
async fn names_that_cannot_be_used_are_refused_before_anything_is_done() {
    let bed = Bed::new();
    for (key, unpack, part) in [
        ("data/", false, "file name"),
        ("data/..", false, "file name"),
        ("data/a\nb.tar", true, "file name"),
        ("data/db.tar.xz", true, ".tar.gz, .tgz"),
        ("data/db", true, ".zip"),
    ] {
        let mut item = bed.item(key, b"body");
        item.unpack = unpack;
        let error = bed.stage(&item).await.unwrap_err().to_string();
        assert!(
            error.contains("s3://b/data") && error.contains(part),
            "{error}"
        );
        assert!(names(&bed.root()).is_empty());
    }
    assert_eq!(bed.gets(), 0);
}

#[tokio::test]
async fn a_root_that_is_not_there_is_never_made() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    let root = bed.root().join("disk");
    let store = RefdataStore::new(
        root.clone(),
        RefdataStore::default_metadata(&root),
        bed.limits,
    );
    let counters = Arc::clone(&bed.counters);
    let error = store
        .stage(&item, &bed.engine(), counters, &bed.cancel)
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), FailureCode::ConfigInvalid);
    let words = error.to_string();
    for part in [root.to_str().unwrap(), "CTS_REFDATA_DIR", "--root"] {
        assert!(words.contains(part), "{words}");
    }
    assert!(!root.exists());
}

#[tokio::test]
async fn another_object_than_was_registered_is_refused_after_a_second_look() {
    let bed = Bed::new();
    let mut item = bed.item("db.tar.gz", &archive());
    let actual = item.expected;
    item.expected = Crc64Nvme::of(b"other");
    let error = bed.stage(&item).await.unwrap_err();
    let words = error.to_string();
    for part in [
        "s3://b/db.tar.gz",
        &actual.to_string(),
        &item.expected.to_string(),
    ] {
        assert!(words.contains(part), "{words}");
    }
    assert!(matches!(
        error,
        StagingError::ChecksumMismatch {
            is_other_content: true,
            ..
        }
    ));
    let parts = archive().len().div_ceil(64);
    assert_eq!(bed.gets(), 2 * parts);
    bed.assert_nothing_is_left();
}

#[tokio::test]
async fn a_bit_that_flips_on_the_way_is_mended_by_a_second_try() {
    // In the gzip header, the compressed data, the end: the unpacker or the checksum notices.
    for part in [0, 1, 2] {
        let bed = Bed::with(|store| store.on(Operation::Get, part, Fault::FlipBit(1)));
        let body = archive();
        let item = bed.item("db.tar.gz", &body);
        bed.stage(&item).await.unwrap();
        bed.assert_staged();
        let progress = bed.counters.snapshot();
        assert_eq!(progress.downloaded_bytes, body.len() as u64);
        assert_eq!(progress.unpacked_files, 3);
    }
}

/// A zip of one file, `tool`, which may not be executed.
fn zip(content: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(content);
    let size = u32::try_from(content.len()).unwrap();
    let described = [
        // Flags and method, time and date.
        &[0; 8][..],
        &crc.sum().to_le_bytes(),
        &size.to_le_bytes(),
        &size.to_le_bytes(),
        // Of the name, then of the extra fields.
        &[4, 0, 0, 0],
    ]
    .concat();
    let local = [&b"PK\x03\x04\x14\0"[..], &described, b"tool", content].concat();
    let header = [
        // By a Unix.
        &b"PK\x01\x02\x14\x03\x14\0"[..],
        &described,
        &[0; 6],
        &(0o100_644_u32 << 16).to_le_bytes(),
        &[0; 4],
        b"tool",
    ]
    .concat();
    let length = |part: &[u8]| u32::try_from(part.len()).unwrap().to_le_bytes();
    let end = [
        &b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..],
        &length(&header),
        &length(&local),
        &[0; 2],
    ]
    .concat();
    [local, header, end].concat()
}

/// Which no format would notice: a permission, where only the directory has it.
#[tokio::test]
async fn a_bit_that_flips_in_a_zips_directory_is_mended_by_a_second_try() {
    // The whole, the end, the directory: whose 40th byte has the permissions of others.
    let mut bed = Bed::with(|store| store.on(Operation::Get, 2, Fault::FlipBit(40)));
    bed.options.stream_part_bytes = 4096;
    let item = bed.item("tools.zip", &zip(b"#!"));
    bed.stage(&item).await.unwrap();
    assert_eq!(bed.gets(), 6, "once more");
    let mode = fs::metadata(bed.root().join("x/tool"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o444);

    let mut bed = Bed::with(|store| {
        store
            .on(Operation::Get, 2, Fault::FlipBit(40))
            .on(Operation::Get, 5, Fault::FlipBit(40))
    });
    bed.options.stream_part_bytes = 4096;
    let item = bed.item("tools.zip", &zip(b"#!"));
    let error = bed.stage(&item).await.unwrap_err().to_string();
    assert!(error.contains("came damaged"), "{error}");
    bed.assert_nothing_is_left();
}

#[tokio::test]
async fn an_archive_that_was_damaged_before_it_was_registered_is_named() {
    let bed = Bed::new();
    let mut body = archive();
    body.truncate(100);
    let item = bed.item("db.tar.gz", &body);
    let error = bed.stage(&item).await.unwrap_err();
    assert!(matches!(error, StagingError::Unpack { .. }), "{error}");
    let words = error.to_string();
    assert!(
        words.contains("s3://b/db.tar.gz cannot be unpacked"),
        "{words}"
    );
    bed.assert_nothing_is_left();
}

#[tokio::test]
async fn an_archive_beyond_the_limits_leaves_nothing() {
    let mut bed = Bed::new();
    bed.limits.max_entries = 2;
    let item = bed.item("db.tar.gz", &archive());
    let error = bed.stage(&item).await.unwrap_err().to_string();
    assert!(error.contains("max_entries"), "{error}");
    let progress = bed.counters.snapshot();
    assert_eq!(
        progress.downloaded_bytes, progress.object_bytes,
        "all was read"
    );
    bed.assert_nothing_is_left();
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_a_file_is_made() {
    let mut bed = Bed::new();
    bed.limits.reserve_bytes = u64::MAX / 2;
    let item = bed.item("db.tar.gz", &archive());
    let error = bed.stage(&item).await.unwrap_err();
    assert!(matches!(error, StagingError::NoSpace { .. }), "{error}");
    bed.assert_nothing_is_left();
}

#[tokio::test]
async fn a_store_that_stays_away_leaves_nothing() {
    let bed = Bed::with(|store| {
        let kind = cts_executor::object_store::StoreErrorKind::Unavailable;
        (1..40).fold(store, |store, n| {
            store.on(Operation::Get, n, Fault::Fail(kind))
        })
    });
    let item = bed.item("db.tar.gz", &archive());
    let error = bed.stage(&item).await.unwrap_err();
    assert!(matches!(error, StagingError::Transfer(_)), "{error}");
    bed.assert_nothing_is_left();
}

/// What is on the disk when a process dies, step by step.
#[tokio::test]
async fn whatever_a_killed_staging_or_removal_left_the_next_one_is_whole() {
    let write = |path: PathBuf, text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let half = |root: &Path| write(root.join(".staging-x/db/half"), "half");
    let mark = |root: &Path| write(root.join(".metadata/x/md5.json.tmp"), "");
    let unfinished = |root: &Path| write(root.join(".metadata/x/md5.json.tmp"), "{\"files\":[");
    let named = |root: &Path| {
        write(root.join("x/db/VERSION"), "old");
        fs::set_permissions(root.join("x/db"), PermissionsExt::from_mode(0o555)).unwrap();
        fs::set_permissions(root.join("x"), PermissionsExt::from_mode(0o555)).unwrap();
    };
    let listed = |root: &Path| {
        write(root.join(".metadata/x/md5.json"), "{\"files\":[]}");
        write(root.join(".metadata/x/verified.json"), "{}");
    };
    let verified = |root: &Path| write(root.join(".metadata/x/verified.json"), "{}");
    let going = |root: &Path| write(root.join(".removing-x/db/VERSION"), "old");
    type Make<'a> = &'a dyn Fn(&Path);
    let states: [(&str, &[Make<'_>]); 7] = [
        ("while unpacking", &[&mark, &half]),
        ("while listing", &[&half, &unfinished]),
        ("before the listing has its name", &[&named, &unfinished]),
        ("a removal, before the tree moved", &[&named, &unfinished]),
        ("a removal, after the tree moved", &[&going, &unfinished]),
        ("a removal, at its end", &[&going, &verified]),
        ("a listing without its tree", &[&listed]),
    ];
    for (when, made) in states {
        let bed = Bed::new();
        made.iter().for_each(|make| make(&bed.root()));
        let listed = bed.store().list().unwrap();
        assert_eq!(listed.len(), 1, "{when}");
        assert_eq!(listed[0].state, ItemState::Damaged, "{when}");
        let status = bed.store().status(&id("x")).unwrap();
        assert_ne!(status.state, RefdataLocalState::Done, "{when}");

        let staged = bed.stage(&bed.item("db.tar.gz", &archive())).await.unwrap();
        assert!(!staged.was_there, "{when}");
        bed.assert_staged();
    }
}

/// Staged by a server that keeps its listings elsewhere, and maybe mounted.
#[tokio::test]
async fn a_tree_of_other_metadata_is_left_alone() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    bed.stage(&item).await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let store = RefdataStore::new(bed.root(), elsewhere.path().to_owned(), bed.limits);
    let engine = bed.engine();
    let staging = store.stage(&item, &engine, Arc::default(), &bed.cancel);
    let error = staging.await.unwrap_err();
    let StagingError::Store(RefdataError::Foreign { path, .. }) = &error else {
        panic!("{error}");
    };
    assert_eq!(*path, bed.root().join("x"));

    let listed = store.list().unwrap();
    assert_eq!(
        (listed.len(), listed[0].state),
        (1, ItemState::Foreign),
        "{listed:?}"
    );
    assert!(store.prunable(&BTreeSet::new()).unwrap().is_empty());
    let refused = [
        store.begin_removal(&item.id).unwrap_err(),
        store.verify(&item.id, true, &bed.cancel).unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, RefdataError::Foreign { .. }), "{error}");
    }
    bed.assert_staged();
    assert!(bed.stage(&item).await.unwrap().was_there);
}

/// A wrong `--root`, metadata beside the trees, stagings with other metadata.
#[tokio::test]
async fn what_the_metadata_knows_nothing_of_is_never_removed() {
    let bed = Bed::new();
    let (root, store) = (bed.root(), bed.store());
    for path in ["home/user", "metadata/x", ".staging-y/db", ".removing-z/db"] {
        fs::create_dir_all(root.join(path)).unwrap();
        fs::write(root.join(path).join("file"), "precious").unwrap();
    }
    fs::write(root.join("notes"), "precious").unwrap();
    let before = tree(&root);
    let listed = store.list().unwrap();
    assert_eq!(listed.len(), 5, "{listed:?}");
    for item in listed {
        assert_eq!(item.state, ItemState::Foreign, "{item:?}");
        let refused = store.begin_removal(&item.id).unwrap_err();
        assert!(matches!(refused, RefdataError::Foreign { .. }), "{refused}");
    }
    assert!(store.prunable(&BTreeSet::new()).unwrap().is_empty());
    let item = Item {
        id: id("y"),
        ..bed.item("db.tar.gz", &archive())
    };
    let error = bed.stage(&item).await.unwrap_err().to_string();
    assert!(error.contains(".staging-y is there"), "{error}");
    fs::remove_dir_all(root.join(".metadata")).unwrap();
    assert_eq!(tree(&root), before);
}

/// As an older version's `prune` with other metadata does it, and a staging after that.
#[tokio::test]
async fn a_tree_that_was_replaced_while_it_grew_is_not_published() {
    // The second file comes whole, the third only when the test says so.
    let held_part = 2 * 1024 / PART_BYTES;
    let bed = Bed::with(|store| store.on(Operation::Get, held_part, Fault::Hold));
    let item = bed.item("db.tar", &tar());
    let growing = bed.root().join(".staging-x");
    let replace = async {
        // Not before: where there is no directory yet to unpack into, that fails of itself.
        eventually("the tree grows", || growing.join("db").exists()).await;
        fs::rename(&growing, bed.root().join(".gone")).unwrap();
        fs::create_dir(&growing).unwrap();
        fs::write(growing.join("half"), "half").unwrap();
        bed.faulty.release();
    };
    let (staged, ()) = tokio::join!(bed.stage(&item), replace);
    let error = staged.unwrap_err().to_string();
    assert!(error.contains("not the directory that was made"), "{error}");
    assert!(!bed.root().join("x").exists());
    assert!(!bed.store().metadata_of(&item.id).join("md5.json").exists());
}

/// Others may write in the metadata, too.
#[tokio::test]
async fn no_planted_link_is_followed() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    let elsewhere = tempfile::tempdir().unwrap();
    let victim = elsewhere.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let metadata = bed.store().metadata_of(&item.id);
    fs::create_dir_all(&metadata).unwrap();
    for name in ["md5.json.tmp", "verified.json"] {
        std::os::unix::fs::symlink(&victim, metadata.join(name)).unwrap();
    }
    bed.stage(&item).await.unwrap();
    bed.assert_staged();
    fs::remove_file(metadata.join("lock")).unwrap();
    std::os::unix::fs::symlink(&victim, metadata.join("lock")).unwrap();
    bed.stage(&item).await.unwrap_err();
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
}

#[tokio::test]
async fn a_tree_without_its_fingerprint_is_read_before_it_is_trusted_again() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    bed.stage(&item).await.unwrap();
    let gets = bed.gets();
    fs::remove_file(bed.store().metadata_of(&item.id).join("verified.json")).unwrap();
    assert!(bed.stage(&item).await.unwrap().was_there);
    assert_eq!(bed.gets(), gets);
    bed.assert_staged();
}

#[tokio::test]
async fn a_tree_that_is_not_what_was_staged_is_not_used_and_can_be_staged_again() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    let (store, root) = (bed.store(), bed.root());
    bed.stage(&item).await.unwrap();
    let victim = root.join("x/db/VERSION");
    fs::set_permissions(&victim, PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&victim, "8\n").unwrap();
    let error = bed.stage(&item).await.unwrap_err();
    assert!(matches!(error, StagingError::Damaged { .. }), "{error}");
    let words = error.to_string();
    assert!(words.contains("\"db/VERSION\" has CRC64NVME"), "{words}");
    let listing = store.metadata_of(&item.id).join("md5.json");

    // As the message says.
    as_told(&words, &listing);
    assert!(!bed.stage(&item).await.unwrap().was_there);
    bed.assert_staged();
}

/// Has a tree staged again as an error's words say.
fn as_told(words: &str, listing: &Path) {
    let unfinished = listing.with_extension("json.tmp");
    let told = format!("rename {} to {}", listing.display(), unfinished.display());
    assert!(words.contains(&told), "{words}");
    fs::rename(listing, unfinished).unwrap();
}

#[tokio::test]
async fn what_was_staged_from_another_object_is_not_taken_for_the_one_asked_for() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    bed.stage(&item).await.unwrap();
    let other = Item {
        expected: Crc64Nvme::of(b"new"),
        ..item.clone()
    };
    let packed = Item {
        unpack: false,
        ..item.clone()
    };
    let metadata = bed.store().metadata_of(&item.id);
    let listing = metadata.join("md5.json");
    // Trusted, then read whole: both know.
    for step in 0..2 {
        for asked in [&other, &packed] {
            let error = bed.stage(asked).await.unwrap_err();
            assert!(
                matches!(error, StagingError::OtherObject { .. }),
                "{step}: {error}"
            );
            let words = error.to_string();
            for part in [item.expected, asked.expected] {
                assert!(words.contains(&part.to_string()), "{words}");
            }
        }
        assert!(bed.stage(&item).await.unwrap().was_there);
        if step == 0 {
            fs::remove_file(metadata.join("verified.json")).unwrap();
        }
    }
    let error = bed.stage(&packed).await.unwrap_err();
    as_told(&error.to_string(), &listing);
    let packed = bed.stage(&packed).await.unwrap();
    assert!(!packed.was_there);
    assert_eq!(packed.files, 1);

    // One of before this was written down.
    let mut listed = Listing::load(&listing).unwrap();
    listed.origin = None;
    listed.save(&listing).unwrap();
    assert!(bed.stage(&other).await.unwrap().was_there);
}

#[tokio::test]
async fn a_listing_that_is_none_is_told_with_what_to_do() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    bed.stage(&item).await.unwrap();
    let listing = bed.store().metadata_of(&item.id).join("md5.json");
    fs::write(&listing, "{\"files\":").unwrap();
    let error = bed.stage(&item).await.unwrap_err();
    assert!(matches!(error, StagingError::Damaged { .. }), "{error}");
    let listed = bed.store().list().unwrap();
    assert_eq!(listed[0].state, ItemState::Damaged);
    as_told(&error.to_string(), &listing);
    bed.stage(&item).await.unwrap();
    bed.assert_staged();
}

#[tokio::test]
async fn two_at_once_stage_it_once() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    let (one, two) = tokio::join!(bed.stage(&item), bed.stage(&item));
    let were_there = [one.unwrap().was_there, two.unwrap().was_there];
    assert!(were_there.contains(&true) && were_there.contains(&false));
    assert_eq!(bed.gets(), archive().len().div_ceil(64));
    bed.assert_staged();
}

#[tokio::test]
async fn several_items_are_staged_side_by_side() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    let items = ["x", "y", "z"].map(|name| Item {
        id: id(name),
        ..item.clone()
    });
    let staged = futures::future::join_all(items.iter().map(|item| bed.stage(item))).await;
    for (item, staged) in items.iter().zip(staged) {
        assert_eq!(tree(&staged.unwrap().tree), files());
        assert!(
            bed.store()
                .verify(&item.id, true, &bed.cancel)
                .unwrap()
                .is_good()
        );
    }
}

#[tokio::test]
async fn cancelling_leaves_nothing_within_seconds() {
    let mut bed = Bed::with(|store| store.on(Operation::Get, 1, Fault::StallBody(3)));
    bed.options.stall_window = DEADLINE;
    let item = bed.item("db.tar.gz", &archive());
    let cancel = bed.cancel.clone();
    let begun = async {
        eventually("the first bytes", || {
            bed.counters.snapshot().downloaded_bytes > 0
        })
        .await;
        cancel.cancel();
        Instant::now()
    };
    let (staged, cancelled) = tokio::join!(bed.stage(&item), begun);
    assert!(cancelled.elapsed() < Duration::from_secs(10));
    let error = staged.unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    // Where the file system takes longer than the caller waits, it is removed all the same.
    eventually("nothing is left", || {
        names(&bed.root()) == set([".metadata"])
    })
    .await;
    bed.assert_nothing_is_left();
}

#[tokio::test]
async fn dropping_the_future_leaves_nothing_and_frees_the_lock() {
    let mut bed = Bed::with(|store| store.on(Operation::Get, 1, Fault::StallBody(3)));
    bed.options.stall_window = DEADLINE;
    let item = bed.item("db.tar.gz", &archive());
    let begun = async {
        // The stalled one must have been asked for: else it is the second staging that meets it.
        eventually("the second question", || {
            bed.counters.snapshot().downloaded_bytes > 0 && bed.gets() >= 2
        })
        .await;
    };
    tokio::select! {
        _ = bed.stage(&item) => panic!("it stalls"),
        () = begun => {}
    }
    // Waits for the lock until the first one has cleaned up, and then stages.
    assert!(!bed.stage(&item).await.unwrap().was_there);
    bed.assert_staged();
}

#[tokio::test]
async fn verification_names_everything_that_differs() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    bed.stage(&item).await.unwrap();
    let store = bed.store();
    let tree = store.tree(&item.id);
    for (path, mode) in [
        ("", 0o755),
        ("db", 0o755),
        ("db/models", 0o755),
        ("readme", 0o644),
    ] {
        fs::set_permissions(tree.join(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    assert!(store.verify(&item.id, true, &bed.cancel).unwrap().is_good());

    fs::write(tree.join("readme"), "tixt").unwrap();
    assert!(
        store
            .verify(&item.id, false, &bed.cancel)
            .unwrap()
            .is_good(),
        "sizes only"
    );
    fs::remove_file(tree.join("db/VERSION")).unwrap();
    fs::write(tree.join("db/models/new"), "").unwrap();
    let verification = store.verify(&item.id, true, &bed.cancel).unwrap();
    let words = verification.to_string();
    assert_eq!(verification.different, 3, "{words}");
    for part in [
        "\"db/VERSION\" is missing",
        "\"db/models/new\" is not in the listing",
        "\"readme\" has CRC64NVME",
    ] {
        assert!(words.contains(part), "{words}");
    }
    let absent = store.verify(&id("absent"), true, &bed.cancel).unwrap_err();
    assert!(matches!(absent, RefdataError::NotStaged { .. }), "{absent}");
}

/// The existing staging server's listings have no CRC64NVME.
#[tokio::test]
async fn a_tree_of_the_existing_server_is_verified_by_its_md5() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    bed.stage(&item).await.unwrap();
    let listing = bed.store().metadata_of(&item.id).join("md5.json");
    let mut listed = Listing::load(&listing).unwrap();
    for file in &mut listed.files {
        file.crc64nvme = None;
    }
    listed.save(&listing).unwrap();
    assert!(bed.stage(&item).await.unwrap().was_there);
    listed.files[0].md5 = "0".repeat(32);
    listed.save(&listing).unwrap();
    let error = bed.stage(&item).await.unwrap_err().to_string();
    assert!(error.contains("\"db/VERSION\" has MD5 84bc"), "{error}");
}

#[tokio::test]
async fn stray_files_are_in_nobodys_way() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    bed.stage(&item).await.unwrap();
    fs::write(bed.root().join(".metadata/README"), "x").unwrap();
    fs::write(bed.root().join(".metadata/notes.txt"), "x").unwrap();
    let listed = bed.store().list().unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(bed.store().prunable(&BTreeSet::new()).unwrap(), listed);
    let status = bed.store().status(&id("README")).unwrap();
    assert_eq!(status.state, RefdataLocalState::None);
}

#[tokio::test]
async fn a_listed_link_below_what_is_no_directory_any_more_is_missing() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    bed.stage(&item).await.unwrap();
    let listing = bed.store().metadata_of(&item.id).join("md5.json");
    let mut listed = Listing::load(&listing).unwrap();
    listed.links.push(Link {
        file: "readme/link".to_owned(),
        target: "x".to_owned(),
    });
    listed.save(&listing).unwrap();
    let verification = bed.store().verify(&item.id, true, &bed.cancel).unwrap();
    assert_eq!(verification.to_string(), "\"readme/link\" is missing");
}

/// It lists what its walk finds: links to files as files, other links nowhere.
#[tokio::test]
async fn links_in_a_tree_of_the_existing_server_are_as_good_as_files() {
    let bed = Bed::new();
    let (store, item) = (bed.store(), bed.item("db.tar.gz", &archive()));
    let (tree, metadata) = (store.tree(&item.id), store.metadata_of(&item.id));
    fs::create_dir_all(tree.join("db")).unwrap();
    fs::create_dir_all(&metadata).unwrap();
    fs::write(tree.join("db/VERSION"), "7\n").unwrap();
    for (link, target) in [
        ("current", "db/VERSION"),
        ("all", "db"),
        ("log", "/dev/null"),
    ] {
        std::os::unix::fs::symlink(target, tree.join(link)).unwrap();
    }
    let listing = metadata.join("md5.json");
    let list = |paths: &[&str]| {
        let files: Vec<_> = paths
            .iter()
            .map(|path| {
                serde_json::json!({
                    "file": path, "md5": "84bc3da1b3e33a18e8d5e1bdd7a18d7a", "size": 2
                })
            })
            .collect();
        fs::write(&listing, serde_json::json!({ "files": files }).to_string()).unwrap();
    };
    list(&["current", "db/VERSION"]);
    let staged = bed.stage(&item).await.unwrap();
    assert_eq!((staged.files, staged.was_there), (2, true));

    list(&["current", "db/VERSION", "log"]);
    let words = bed.stage(&item).await.unwrap_err().to_string();
    assert!(
        words.contains("\"log\" is a symbolic link that leads out of the tree"),
        "{words}"
    );
    // Nothing but the listing says that it is of this metadata.
    fs::remove_file(metadata.join("verified.json")).unwrap();
    as_told(&words, &listing);
    assert!(!bed.stage(&item).await.unwrap().was_there);
    bed.assert_staged();
}

#[tokio::test]
async fn links_in_a_tree_of_ours_must_be_listed() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    bed.stage(&item).await.unwrap();
    let tree = bed.store().tree(&item.id);
    for path in ["", "db"] {
        fs::set_permissions(tree.join(path), PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::rename(tree.join("readme"), tree.join("db/readme")).unwrap();
    std::os::unix::fs::symlink("db/readme", tree.join("readme")).unwrap();
    std::os::unix::fs::symlink("db", tree.join("new")).unwrap();
    let words = bed.stage(&item).await.unwrap_err().to_string();
    for part in [
        "\"readme\" is, or lies behind, a symbolic link",
        "\"new\" is not in the listing",
        "\"db/readme\" is not in the listing",
    ] {
        assert!(words.contains(part), "{words}");
    }
}

#[tokio::test]
async fn what_is_not_kept_can_be_removed_but_not_while_it_is_worked_on() {
    let bed = Bed::new();
    let item = bed.item("db.tar.gz", &archive());
    for name in ["x", "y", "noted"] {
        let item = Item {
            id: id(name),
            ..item.clone()
        };
        bed.stage(&item).await.unwrap();
    }
    let store = bed.store();
    fs::write(store.note(&id("noted")), "{}").unwrap();
    fs::create_dir_all(bed.root().join(".removing-gone/db")).unwrap();
    fs::create_dir_all(store.metadata_of(&id("gone"))).unwrap();
    fs::write(store.metadata_of(&id("gone")).join("verified.json"), "{}").unwrap();
    let prunable = |keep: &[&str]| {
        let keep = keep.iter().map(|name| id(name)).collect();
        let items = store.prunable(&keep).unwrap().into_iter();
        items.map(|item| item.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(prunable(&[]), ["gone", "x", "y"]);
    assert_eq!(prunable(&["y"]), ["gone", "x"]);

    let lock = fs::File::open(store.metadata_of(&id("x")).join("lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(prunable(&[]), ["gone", "y"]);
    let busy = store.begin_removal(&id("x")).unwrap_err();
    assert!(matches!(busy, RefdataError::Busy { .. }), "{busy}");
    lock.unlock().unwrap();

    for name in ["x", "gone"] {
        store.begin_removal(&id(name)).unwrap().finish().unwrap();
    }
    assert_eq!(names(&bed.root()), set([".metadata", "noted", "y"]));
    assert_eq!(names(&bed.root().join(".metadata")), set(["noted", "y"]));
}
