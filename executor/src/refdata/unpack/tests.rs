//! The corpus of `executor/tests/archives`, random trees, and random damage.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cts_shared::crc64nvme::Crc64Nvme;
use cts_shared::refdata_archive::ArchiveFormat;
use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::refdata::listing::Link;

/// The archives are small, so are the bounds.
const LIMITS: StagingLimits = StagingLimits {
    max_entries: 100,
    max_expansion: 200,
    expansion_from_bytes: 64 * 1024,
    max_unpacked_bytes: 1024 * 1024,
    reserve_bytes: 0,
};

/// An object in memory that comes in pieces.
struct Memory {
    bytes: Bytes,
    position: usize,
    /// Most bytes of one read.
    piece: usize,
    /// Reading fails here.
    fails_at: Option<usize>,
}

impl Memory {
    fn new(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            position: 0,
            piece: usize::MAX,
            fails_at: None,
        }
    }

    fn is_read_to_its_end(&self) -> bool {
        self.position == self.bytes.len()
    }
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.fails_at.is_some_and(|at| self.position >= at) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let rest = &self.bytes[self.position..];
        let count = rest.len().min(buffer.len()).min(self.piece);
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Ok(count)
    }
}

impl ArchiveSource for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&mut self, offset: u64, length: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset).unwrap();
        let end = start
            .checked_add(length)
            .filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(self.bytes.slice(start..end))
    }
}

/// A tree to unpack into, with files around it that must stay what they are.
struct Place {
    dir: tempfile::TempDir,
}

/// What hostile archives aim at, below the directory of the tree.
const SENTINELS: [&str; 4] = ["escape", "outside", "x", "all"];

impl Place {
    fn new() -> Self {
        // In memory where there is such a place: thousands of trees are made and removed.
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        for name in SENTINELS {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::create_dir(dir.path().join("tree")).unwrap();
        Self { dir }
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn assert_nothing_outside_changed(&self, what: &str) {
        let found: BTreeSet<String> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "tree")
            .collect();
        assert_eq!(found, SENTINELS.map(str::to_owned).into(), "{what}");
        for name in SENTINELS {
            let path = self.dir.path().join(name);
            assert_eq!(fs::read_to_string(&path).unwrap(), name, "{what}");
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
                0o644
            );
        }
        assert!(!Path::new("/etc/escape").exists(), "{what}");
    }
}

fn packing_of(name: &str) -> Packing {
    ArchiveFormat::of_name(name).map_or(Packing::Plain, |(format, _)| Packing::Archive(format))
}

fn unpack_within(
    source: &mut Memory,
    name: &str,
    tree: &Path,
    limits: &StagingLimits,
) -> Result<Listing, UnpackError> {
    unpack(
        source,
        &Unpacking {
            packing: packing_of(name),
            name,
            tree,
            limits,
            counters: &StagingCounters::default(),
            has_space: &|wanted| Ok(*wanted.end()),
            cancelled: &|| false,
        },
    )
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives")
}

fn names_in(directory: &str) -> BTreeSet<String> {
    fs::read_dir(corpus().join(directory))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[derive(Debug, Deserialize)]
struct Expected {
    files: Vec<ExpectedFile>,
    links: Vec<Link>,
    executables: BTreeSet<String>,
    directories: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct ExpectedFile {
    file: String,
    md5: String,
    size: u64,
}

fn good() -> BTreeMap<String, Expected> {
    let text = fs::read_to_string(corpus().join("good.json")).unwrap();
    let expected: BTreeMap<String, Expected> = serde_json::from_str(&text).unwrap();
    assert_eq!(names_in("good"), expected.keys().cloned().collect());
    expected
}

fn as_expected(listing: &Listing) -> Vec<ExpectedFile> {
    let files = listing.files.iter();
    files
        .map(|file| ExpectedFile {
            file: file.file.clone(),
            md5: file.md5.clone(),
            size: file.size,
        })
        .collect()
}

/// Paths below `tree` of its files, directories and links.
fn walk(tree: &Path) -> [BTreeSet<String>; 3] {
    let mut found = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let name = path
                .strip_prefix(tree)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let file_type = entry.file_type().unwrap();
            if file_type.is_dir() {
                found[1].insert(name);
                directories.push(path);
            } else if file_type.is_symlink() {
                found[2].insert(name);
            } else {
                assert!(file_type.is_file(), "{name}");
                found[0].insert(name);
            }
        }
    }
    found
}

#[test]
fn good_archives_become_exactly_what_they_hold() {
    for (name, expected) in good() {
        let bytes = Bytes::from(fs::read(corpus().join("good").join(&name)).unwrap());
        for piece in [usize::MAX, 7] {
            let place = Place::new();
            let tree = place.tree();
            let mut source = Memory {
                piece,
                ..Memory::new(bytes.clone())
            };
            let listing = unpack_within(&mut source, &name, &tree, &LIMITS)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(source.is_read_to_its_end(), "{name}");
            assert_eq!(as_expected(&listing), expected.files, "{name}");
            assert_eq!(listing.links, expected.links, "{name}");
            make_read_only(&tree).unwrap();
            let [files, directories, links] = walk(&tree);
            assert!(
                files
                    .iter()
                    .eq(expected.files.iter().map(|file| &file.file)),
                "{name}"
            );
            assert!(
                links
                    .iter()
                    .eq(expected.links.iter().map(|link| &link.file)),
                "{name}"
            );
            assert_eq!(directories, expected.directories, "{name}");
            for file in &listing.files {
                let path = tree.join(&file.file);
                let content = fs::read(&path).unwrap();
                assert_eq!(content.len() as u64, file.size, "{name}: {}", file.file);
                assert_eq!(file.crc64nvme, Some(Crc64Nvme::of(&content)), "{name}");
                let executable = expected.executables.contains(&file.file);
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                let wanted = if executable { 0o100_555 } else { 0o100_444 };
                assert_eq!(mode, wanted, "{name}: {}", file.file);
            }
            for link in &listing.links {
                let target = fs::read_link(tree.join(&link.file)).unwrap();
                assert_eq!(target.to_str(), Some(&*link.target), "{name}");
            }
            place.assert_nothing_outside_changed(&name);
            remove_tree(&tree).unwrap();
        }
    }
}

/// What is refused: the archive, why, and the member (`-`: the archive as a whole).
fn refusal(name: &str, error: &UnpackError) -> String {
    let code = error.reason().map_or("no reason", Reason::code);
    let member = match error {
        UnpackError::Member { name, .. } => name,
        UnpackError::Archive { name: archive, .. } if archive == name => "-",
        _ => "no member",
    };
    format!("{name}\t{code}\t{member}")
}

#[test]
fn hostile_archives_are_refused_by_name() {
    let table = fs::read_to_string(corpus().join("hostile.tsv")).unwrap();
    let rows: Vec<&str> = table.lines().skip(1).collect();
    let mut refused = Vec::new();
    for name in names_in("hostile") {
        let bytes = fs::read(corpus().join("hostile").join(&name)).unwrap();
        let place = Place::new();
        match unpack_within(&mut Memory::new(bytes), &name, &place.tree(), &LIMITS) {
            Ok(listing) => refused.push(format!("{name} is unpacked: {listing:?}")),
            Err(error) => {
                let row = refusal(&name, &error);
                let message = error.to_string();
                let named = row.split('\t').nth(2).filter(|member| *member != "-");
                assert!(message.contains(named.unwrap_or(&name)), "{message}");
                assert!(!message.chars().any(char::is_control), "{message:?}");
                refused.push(row);
            }
        }
        place.assert_nothing_outside_changed(&name);
        make_read_only(&place.tree()).unwrap();
        remove_tree(&place.tree()).unwrap();
    }
    let rows: BTreeSet<String> = rows.into_iter().map(str::to_owned).collect();
    let refused: BTreeSet<String> = refused.into_iter().collect();
    let unlike: Vec<&String> = rows.symmetric_difference(&refused).collect();
    assert!(
        unlike.is_empty(),
        "in one of table and tests only: {unlike:#?}"
    );
}

/// Lengths to which an archive can be cut without loss, or without a trace: zeros after the end, and gzip
/// members, which stand for themselves (what is lost with those only the object's checksum tells).
fn untraceable_cuts(name: &str, bytes: &[u8]) -> Vec<usize> {
    if name.ends_with(".tar") || name.starts_with("padded") {
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        // A tar's end begins with one block of zeros at the least.
        let needed = if name.ends_with(".tar") {
            used.next_multiple_of(512) + 512
        } else {
            // A gzip's last four bytes are its size.
            used.max(bytes.len() - 600)
        };
        return (needed..bytes.len()).collect();
    }
    let is_member = |at: &usize| bytes[*at..].starts_with(b"\x1f\x8b\x08");
    match packing_of(name) {
        Packing::Archive(ArchiveFormat::Gz) => (1..bytes.len()).filter(is_member).collect(),
        _ => vec![],
    }
}

#[test]
fn no_good_archive_is_accepted_when_it_is_cut() {
    for (name, _) in good() {
        let bytes = Bytes::from(fs::read(corpus().join("good").join(&name)).unwrap());
        let untraceable = untraceable_cuts(&name, &bytes);
        let place = Place::new();
        // Every length near the ends, where the headers are, and some of those between.
        let tried = |length: &usize| {
            let from_end = length.min(&(bytes.len() - length)).to_owned();
            (from_end < 100 || length.is_multiple_of(41)) && !untraceable.contains(length)
        };
        for length in (0..bytes.len()).filter(tried) {
            let mut source = Memory::new(bytes.slice(..length));
            let tree = place.tree();
            let result = unpack_within(&mut source, &name, &tree, &LIMITS);
            let error = result.expect_err(&format!("{name} cut to {length}"));
            assert!(
                error.reason().is_some(),
                "{name} cut to {length}: {error:?}"
            );
            remove_tree(&tree).unwrap();
            fs::create_dir(&tree).unwrap();
        }
        place.assert_nothing_outside_changed(&name);
    }
}

/// The checksums of gzip, Zstandard and zip are over the bytes of files; a tar has none of them, and the types
/// and permissions in a zip's directory have none either. There only the object's own CRC64NVME tells.
#[test]
fn damage_is_noticed_by_the_formats_that_can_and_harmless_in_all() {
    let mut random = proptest::test_runner::TestRunner::deterministic();
    for (name, expected) in good() {
        let bytes = fs::read(corpus().join("good").join(&name)).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let mut known: BTreeSet<(String, u64)> = BTreeSet::new();
        known.extend(
            expected
                .files
                .iter()
                .map(|file| (file.md5.clone(), file.size)),
        );
        let place = Place::new();
        for _ in 0..150 {
            let damaged = random.rng();
            let at = damaged.random_range(0..bytes.len());
            let bit = damaged.random_range(0..8);
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            let what = format!("{name}: bit {bit} of byte {at}");
            let tree = place.tree();
            match unpack_within(&mut Memory::new(bytes), &name, &tree, &LIMITS) {
                Err(error) => assert!(error.reason().is_some(), "{what}: {error:?}"),
                Ok(_) if name.ends_with(".tar") => {}
                Ok(listing) => {
                    for file in as_expected(&listing) {
                        let was_link = expected.links.iter().any(|link| link.file == file.file);
                        assert!(
                            was_link || known.contains(&(file.md5.clone(), file.size)),
                            "{what}: {file:?}"
                        );
                    }
                }
            }
            place.assert_nothing_outside_changed(&what);
            remove_tree(&tree).unwrap();
            fs::create_dir(&tree).unwrap();
        }
    }
}

/// A tree of files, packed by the tar crate.
fn packed(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, path, content.as_slice())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast())
        .read_to_end(&mut packed)
        .unwrap();
    packed
}

fn wide_limits() -> StagingLimits {
    StagingLimits {
        reserve_bytes: 0,
        ..StagingLimits::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn trees_come_back_as_they_were_packed(
        files in proptest::collection::btree_map(
            // No file can be a directory of another: files end in a letter that no directory has.
            "([a-c\u{e9}]{1,3}/){0,3}[a-c]{1,120}z",
            proptest::collection::vec(any::<u8>(), 0..3000),
            0..12,
        ),
        piece in 1_usize..5000,
    ) {
        let tar = packed(&files);
        let archives = [
            ("t.tar.gz", gzipped(&tar)),
            ("t.tar.zst", zstd::encode_all(&*tar, 1).unwrap()),
            ("t.tar", tar),
        ];
        for (name, bytes) in archives {
            let place = Place::new();
            let mut source = Memory { piece, ..Memory::new(bytes) };
            let listing = unpack_within(&mut source, name, &place.tree(), &wide_limits()).unwrap();
            prop_assert!(listing.files.iter().map(|file| &file.file).eq(files.keys()));
            for (file, (path, content)) in listing.files.iter().zip(&files) {
                prop_assert_eq!(&fs::read(place.tree().join(path)).unwrap(), content);
                prop_assert_eq!(file.size, content.len() as u64);
                prop_assert_eq!(file.crc64nvme, Some(Crc64Nvme::of(content)));
            }
            prop_assert_eq!(walk(&place.tree())[0].len(), files.len());
        }
    }
}

/// Bytes that do not compress, and differ everywhere.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn files_larger_than_all_buffers_are_whole() {
    let sizes = [256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 9 * 1024 * 1024];
    let files: BTreeMap<String, Vec<u8>> = sizes
        .iter()
        .map(|size| (format!("{size}"), noise(*size)))
        .collect();
    let place = Place::new();
    let mut source = Memory::new(gzipped(&packed(&files)));
    let listing = unpack_within(&mut source, "big.tar.gz", &place.tree(), &wide_limits()).unwrap();
    assert_eq!(listing.files.len(), files.len());
    for (path, content) in &files {
        assert!(
            fs::read(place.tree().join(path)).unwrap() == *content,
            "{path}"
        );
    }
}

#[test]
fn a_plain_object_is_one_file_of_its_name() {
    let place = Place::new();
    let mut source = Memory::new("ACGT");
    let listing = unpack_within(&mut source, "genome.fna", &place.tree(), &LIMITS).unwrap();
    assert_eq!(listing.files.len(), 1);
    assert_eq!(listing.files[0].file, "genome.fna");
    assert_eq!(listing.files[0].md5, "f1f8f4bf413b16ad135722aa4591043e");
    assert_eq!(
        fs::read_to_string(place.tree().join("genome.fna")).unwrap(),
        "ACGT"
    );
    for name in ["..", "a\nb", ""] {
        let place = Place::new();
        let mut source = Memory::new("ACGT");
        let error = unpack_within(&mut source, name, &place.tree(), &LIMITS).unwrap_err();
        assert!(matches!(error, UnpackError::Archive { .. }), "{error:?}");
        place.assert_nothing_outside_changed(name);
    }
}

#[test]
fn progress_is_counted() {
    let files = BTreeMap::from([("a".to_owned(), noise(1000)), ("b".to_owned(), noise(2000))]);
    let mut source = Memory::new(gzipped(&packed(&files)));
    let size = source.size();
    let place = Place::new();
    let counters = StagingCounters::default();
    let asked = AtomicU64::new(0);
    unpack(
        &mut source,
        &Unpacking {
            packing: Packing::Archive(ArchiveFormat::TarGz),
            name: "t.tar.gz",
            tree: &place.tree(),
            limits: &LIMITS,
            counters: &counters,
            // No more than is asked for, so that each piece is asked about.
            has_space: &|wanted| {
                asked.fetch_add(*wanted.start(), Ordering::Relaxed);
                Ok(*wanted.start())
            },
            cancelled: &|| false,
        },
    )
    .unwrap();
    let seen = counters.snapshot();
    assert_eq!((seen.object_bytes, seen.downloaded_bytes), (size, size));
    assert_eq!((seen.unpacked_bytes, seen.unpacked_files), (3000, 2));
    // A block of the disk for each.
    assert_eq!(asked.load(Ordering::Relaxed), 2 * 4096);
}

#[test]
fn what_stops_it_is_told_as_what_it_is() {
    let files = BTreeMap::from([("a".to_owned(), noise(300_000))]);
    let tar = packed(&files);
    let archives = [
        ("t.tar", tar.clone()),
        ("t.tar.gz", gzipped(&tar)),
        ("t.tar.zst", zstd::encode_all(&*tar, 1).unwrap()),
        ("t.gz", gzipped(&tar)),
        ("t.txt", tar),
    ];
    let limits = wide_limits();
    for (name, bytes) in archives {
        let place = Place::new();
        let mut source = Memory {
            fails_at: Some(150_000),
            piece: 1000,
            ..Memory::new(bytes.clone())
        };
        let error = unpack_within(&mut source, name, &place.tree(), &limits).unwrap_err();
        match error {
            UnpackError::Source(cause) => assert_eq!(cause.kind(), io::ErrorKind::ConnectionReset),
            other => panic!("{name}: {other:?}"),
        }

        let place = Place::new();
        let tree = place.tree();
        let how = Unpacking {
            packing: packing_of(name),
            name,
            tree: &tree,
            limits: &limits,
            counters: &StagingCounters::default(),
            has_space: &|wanted| {
                Err(UnpackError::Reserve {
                    path: tree.clone(),
                    free_bytes: 3,
                    reserve_bytes: 2,
                    needed_bytes: *wanted.start(),
                })
            },
            cancelled: &|| false,
        };
        let error = unpack(&mut Memory::new(bytes.clone()), &how).unwrap_err();
        assert!(
            matches!(error, UnpackError::Reserve { .. }),
            "{name}: {error:?}"
        );
        assert_eq!(
            walk(&tree)[0].len(),
            0,
            "{name}: nothing is written without space"
        );

        let asked = AtomicU64::new(0);
        let how = Unpacking {
            has_space: &|wanted| Ok(*wanted.end()),
            cancelled: &|| asked.fetch_add(1, Ordering::Relaxed) >= 3,
            ..how
        };
        let error = unpack(&mut Memory::new(bytes), &how).unwrap_err();
        assert!(matches!(error, UnpackError::Cancelled), "{name}: {error:?}");
    }
}

#[test]
fn errors_of_the_file_system_have_names() {
    use rustix::io::Errno;
    let of = |errno| UnpackError::write("a", errno);
    assert!(matches!(of(Errno::NOSPC), UnpackError::DiskFull { .. }));
    assert!(matches!(
        of(Errno::DQUOT),
        UnpackError::QuotaExceeded { .. }
    ));
    assert!(matches!(of(Errno::IO), UnpackError::DiskFailed { .. }));
    assert!(matches!(of(Errno::ROFS), UnpackError::Io { .. }));
    let missing = unpack_within(
        &mut Memory::new("x"),
        "x",
        Path::new("/nonexistent/tree"),
        &LIMITS,
    );
    assert!(matches!(missing, Err(UnpackError::Io { .. })));
}
