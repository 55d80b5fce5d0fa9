//! A store, a directory, an engine with small sizes and short times.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cts_executor::object_store::faulty::FaultyStore;
use cts_executor::object_store::memory::MemoryStore;
use cts_executor::object_store::{ObjectChecksum, ObjectName, ObjectStore};
use cts_executor::progress::Counters;
use cts_executor::transfer::{
    Download, RetryPolicy, Source, Summary, TransferEngine, TransferError, TransferOptions,
    TransferRuntime, Upload, Uploaded,
};
use cts_shared::crc64nvme::Crc64Nvme;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// No test waits longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Setup {
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) faulty: Arc<FaultyStore>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) cancel: CancellationToken,
    pub(crate) options: TransferOptions,
    pub(crate) dir: TempDir,
    runtime: TransferRuntime,
}

/// Parts of 100 and 40 bytes down, of 40 in streams, 64 up; everything is quick.
pub(crate) fn options() -> TransferOptions {
    TransferOptions {
        download_concurrency: 4,
        first_part_bytes: 100,
        part_bytes: 40,
        stream_part_bytes: 40,
        upload_concurrency: 4,
        upload_part_bytes: 64,
        response_timeout: Duration::from_millis(300),
        stall_window: Duration::from_millis(100),
        stall_min_bytes: 1,
        retry: RetryPolicy {
            max_attempts: 4,
            max_elapsed: Duration::from_secs(20),
            base_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(2),
        },
        ..TransferOptions::default()
    }
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self::with(|store| store)
    }

    /// With faults planned.
    pub(crate) fn with(plan: impl FnOnce(FaultyStore) -> FaultyStore) -> Self {
        Self::over(MemoryStore::with_buckets(&["b"]).with_chunk_bytes(7), plan)
    }

    pub(crate) fn over(memory: MemoryStore, plan: impl FnOnce(FaultyStore) -> FaultyStore) -> Self {
        let memory = Arc::new(memory);
        let inner: Arc<dyn ObjectStore> = Arc::clone(&memory) as _;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("input")).unwrap();
        std::fs::create_dir(dir.path().join("output")).unwrap();
        Self {
            memory,
            faulty: Arc::new(plan(FaultyStore::new(inner))),
            counters: Arc::new(Counters::default()),
            cancel: CancellationToken::new(),
            options: options(),
            dir,
            runtime: TransferRuntime::start().unwrap(),
        }
    }

    pub(crate) fn input(&self) -> PathBuf {
        self.dir.path().join("input")
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.dir.path().join("output")
    }

    pub(crate) fn engine(&self) -> TransferEngine {
        let store: Arc<dyn ObjectStore> = Arc::clone(&self.faulty) as _;
        TransferEngine::new(store, self.options.clone(), &self.runtime)
    }

    /// Puts an object there; returns its download.
    pub(crate) fn object(&self, key: &str, body: &[u8]) -> Download {
        let object = ObjectName::new("b", key);
        let expected = Crc64Nvme::of(body);
        let checksum = ObjectChecksum::FullObject(expected);
        self.memory.insert(&object, body.to_vec(), checksum);
        Download {
            object,
            destination: key.into(),
            expected,
        }
    }

    /// Writes a file; returns its upload.
    pub(crate) fn file(&self, name: &str, body: &[u8]) -> Upload {
        let path = self.dir.path().join(name);
        std::fs::write(&path, body).unwrap();
        Upload {
            source: Source::File(path),
            object: ObjectName::new("b", name),
        }
    }

    pub(crate) async fn download(&self, items: Vec<Download>) -> Result<Summary, TransferError> {
        let engine = self.engine();
        let counters = Arc::clone(&self.counters);
        let download = engine.download(items, self.input(), counters, &self.cancel);
        tokio::time::timeout(DEADLINE, download).await.unwrap()
    }

    pub(crate) async fn upload(&self, items: Vec<Upload>) -> Result<Vec<Uploaded>, TransferError> {
        let engine = self.engine();
        let upload = engine.upload(items, Arc::clone(&self.counters), &self.cancel);
        tokio::time::timeout(DEADLINE, upload).await.unwrap()
    }

    /// Every file in the input directory.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        read_tree(&self.input(), &self.input(), &mut files);
        files
    }

    /// Nothing partial is left, whatever is finished.
    pub(crate) fn assert_no_partials(&self) {
        for entry in std::fs::read_dir(self.input()).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(!name.to_string_lossy().starts_with('.'), "{name:?} is left");
        }
    }
}

fn read_tree(root: &Path, directory: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_tree(root, &path, files);
        } else {
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
}

/// Bytes that are all different from their neighbours.
pub(crate) fn bytes(len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| u8::try_from((n * 7 + n / 251) % 251).unwrap())
        .collect()
}
