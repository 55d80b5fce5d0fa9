//! Files to objects.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cts_executor::object_store::faulty::{Fault, FaultyStore, Operation};
use cts_executor::object_store::{ObjectChecksum, ObjectName, StoreErrorKind};
use cts_executor::transfer::{Closed, PublishGate, TransferError, Upload};
use cts_shared::crc64nvme::Crc64Nvme;
use futures::FutureExt;
use futures::future::{BoxFuture, pending, ready};
use tokio::sync::watch;

use crate::setup::{DEADLINE, Setup, bytes};

const SIZES: [(&str, usize); 5] = [
    ("empty", 0),
    ("small", 10),
    ("one part", 64),
    ("one more", 65),
    ("many", 1000),
];

fn some_files(setup: &Setup) -> Vec<Upload> {
    SIZES
        .iter()
        .map(|(name, len)| setup.file(name, &bytes(*len)))
        .collect()
}

fn assert_all_there(setup: &Setup) {
    for (name, len) in SIZES {
        let object = setup.memory.object(&ObjectName::new("b", name)).unwrap();
        assert_eq!(object, bytes(len), "{name}");
    }
    assert_eq!(setup.memory.open_uploads(), 0);
}

#[tokio::test]
async fn all_sizes_arrive_and_their_checksums_come_back_in_order() {
    let setup = Setup::new();
    let sent = setup.upload(some_files(&setup)).await.unwrap();
    assert_all_there(&setup);
    let sent: Vec<_> = sent
        .iter()
        .map(|sent| (&*sent.object.key, sent.checksum, sent.size))
        .collect();
    let expected = SIZES.map(|(name, len)| (name, Crc64Nvme::of(&bytes(len)), len as u64));
    assert_eq!(sent, expected);
    let progress = setup.counters.snapshot();
    assert_eq!((progress.files_done, progress.files_total), (5, 5));
    assert_eq!((progress.bytes_done, progress.bytes_total), (1139, 1139));
}

/// Puts 3, creates 2, parts 2 + 16, completes 2.
const CALLS: usize = 25;

#[tokio::test]
async fn any_one_call_may_fail() {
    let setup = Setup::new();
    setup.upload(some_files(&setup)).await.unwrap();
    assert_eq!(setup.faulty.calls().len(), CALLS);
    for n in 0..CALLS {
        for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Throttled] {
            for fault in [Fault::Fail(kind), Fault::LoseAnswer(kind), Fault::Stall] {
                if fault == Fault::Stall && n % 6 != 0 {
                    continue;
                }
                let mut setup = Setup::with(|store| store.on_call(n, fault.clone()));
                // So that a stall at completion, which gets more time, is over soon.
                setup.options.response_timeout = std::time::Duration::from_millis(100);
                setup.upload(some_files(&setup)).await.unwrap();
                assert_all_there(&setup);
            }
        }
    }
}

#[tokio::test]
async fn a_permanent_failure_of_any_call_leaves_no_open_upload_and_no_half_object() {
    for n in 0..CALLS {
        let fault = Fault::Fail(StoreErrorKind::AccessDenied);
        let setup = Setup::with(|store| store.on_call(n, fault));
        let error = setup.upload(some_files(&setup)).await.unwrap_err();
        assert!(error.to_string().contains("access denied"), "{error}");
        assert_eq!(setup.memory.open_uploads(), 0, "call {n}");
        for object in setup.memory.objects() {
            let len = SIZES
                .iter()
                .find(|(name, _)| *name == object.key)
                .unwrap()
                .1;
            assert_eq!(setup.memory.object(&object).unwrap(), bytes(len));
        }
    }
}

#[tokio::test]
async fn a_refused_checksum_is_sent_again_a_few_times() {
    let refuse = || Fault::Fail(StoreErrorKind::ChecksumRefused);
    let setup = Setup::with(|store| {
        store
            .on(Operation::Put, 0, refuse())
            .on(Operation::UploadPart, 0, refuse())
    });
    setup.upload(some_files(&setup)).await.unwrap();
    assert_all_there(&setup);

    for operation in [Operation::Put, Operation::UploadPart] {
        let setup = Setup::with(|store| store.always(operation, refuse()));
        let error = setup.upload(some_files(&setup)).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("the store got other bytes than were sent"),
            "{error}"
        );
        assert_eq!(setup.memory.open_uploads(), 0);
    }
}

#[tokio::test]
async fn a_lost_answer_of_the_completion_is_decided_by_what_the_store_has() {
    let lose = Fault::LoseAnswer(StoreErrorKind::Unavailable);
    let setup = Setup::with(|store| store.on(Operation::CompleteMultipart, 0, lose));
    let file = setup.file("many", &bytes(1000));
    setup.upload(vec![file]).await.unwrap();
    let calls = setup.faulty.calls();
    let completes = calls
        .iter()
        .filter(|call| **call == Operation::CompleteMultipart)
        .count();
    assert_eq!(completes, 1);
    assert!(calls.contains(&Operation::Head));
}

#[tokio::test]
async fn completion_failing_for_good_removes_everything() {
    let fail = Fault::Fail(StoreErrorKind::Unavailable);
    let setup = Setup::with(|store| store.always(Operation::CompleteMultipart, fail));
    let file = setup.file("many", &bytes(1000));
    setup.upload(vec![file]).await.unwrap_err();
    assert_eq!(setup.memory.open_uploads(), 0);
    assert_eq!(setup.memory.objects(), []);
}

#[tokio::test]
async fn a_store_that_confirms_nothing_is_asked() {
    let absent = Fault::Checksum(ObjectChecksum::Absent);
    let setup = Setup::with(|store| {
        store
            .always(Operation::Put, absent.clone())
            .always(Operation::CompleteMultipart, absent.clone())
    });
    setup.upload(some_files(&setup)).await.unwrap();
    assert_all_there(&setup);
    let heads = setup
        .faulty
        .calls()
        .iter()
        .filter(|call| **call == Operation::Head)
        .count();
    assert_eq!(heads, 5);
}

#[tokio::test]
async fn a_store_that_has_something_else_is_named_and_its_object_removed() {
    let composite = ObjectChecksum::Composite("AAAAAAAAAAA=-2".to_owned());
    for (checksum, words) in [
        (
            ObjectChecksum::FullObject(Crc64Nvme::new(1)),
            "AAAAAAAAAAE=",
        ),
        (composite, "only a composite CRC64NVME"),
        (ObjectChecksum::Absent, "no CRC64NVME"),
    ] {
        for len in [10, 1000] {
            let setup = Setup::with(|store: FaultyStore| {
                store
                    .always(Operation::Put, Fault::Checksum(checksum.clone()))
                    .always(
                        Operation::CompleteMultipart,
                        Fault::Checksum(checksum.clone()),
                    )
                    .always(Operation::Head, Fault::Checksum(checksum.clone()))
            });
            let file = setup.file("k", &bytes(len));
            let error = setup.upload(vec![file]).await.unwrap_err();
            assert!(matches!(error, TransferError::NotConfirmed { .. }));
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(setup.memory.objects(), []);
            assert_eq!(setup.memory.open_uploads(), 0);
        }
    }
}

#[tokio::test]
async fn a_lost_answer_to_the_beginning_leaves_no_upload_open() {
    let lose = Fault::LoseAnswer(StoreErrorKind::Unavailable);
    let setup = Setup::with(|store| store.on(Operation::CreateMultipart, 0, lose));
    let file = setup.file("many", &bytes(1000));
    setup.upload(vec![file]).await.unwrap();
    assert_eq!(setup.memory.open_uploads(), 0);
}

#[tokio::test]
async fn orphans_of_a_killed_run_are_aborted_below_the_prefix_only() {
    use cts_executor::object_store::ObjectStore;
    let setup = Setup::new();
    for key in ["mine/0/a", "mine/0/b", "mine/1/a", "other"] {
        setup
            .memory
            .create_multipart(&ObjectName::new("b", key))
            .await
            .unwrap();
    }
    assert_eq!(
        setup.engine().abort_orphans("b", "mine/0/").await.unwrap(),
        2
    );
    assert_eq!(setup.memory.open_uploads(), 2);
}

#[tokio::test]
async fn a_file_that_is_gone_or_no_file_is_named() {
    let setup = Setup::new();
    let missing = setup.file("k", b"");
    std::fs::remove_file(setup.dir.path().join("k")).unwrap();
    let error = setup.upload(vec![missing]).await.unwrap_err();
    assert!(
        error.to_string().contains("cannot open") && error.to_string().contains("/k"),
        "{error}"
    );
}

#[tokio::test]
async fn outputs_that_change_are_refused() {
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 4] = [
        ("grows", |path| {
            let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(b"more").unwrap();
        }),
        ("is cut", |path| {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(3).unwrap();
        }),
        ("is replaced", |path| {
            let other = path.with_extension("new");
            std::fs::write(&other, std::fs::read(path).unwrap()).unwrap();
            std::fs::rename(other, path).unwrap();
        }),
        ("becomes a link out", |path| {
            std::fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
        }),
    ];
    for len in [10, 1000] {
        for (what, change) in changes {
            let setup = Setup::new();
            let path = setup.output().join("k");
            std::fs::write(&path, bytes(len)).unwrap();
            let collected = crate::collection::collect(&setup.output()).unwrap();
            change(&path);
            let uploads = crate::collection::uploads(collected);
            let error = setup.upload(uploads).await.unwrap_err();
            assert!(
                matches!(error, TransferError::SourceChanged { .. }),
                "{what}: {error}"
            );
            assert_eq!(setup.memory.objects(), []);
            assert_eq!(setup.memory.open_uploads(), 0);
        }
    }
}

/// Lets the first few through.
#[derive(Debug, Default)]
struct Gate {
    open_for: usize,
    asked: AtomicUsize,
}

impl PublishGate for Gate {
    fn pass(&self) -> BoxFuture<'_, Result<(), Closed>> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(ready(if asked < self.open_for {
            Ok(())
        } else {
            Err(Closed)
        }))
    }

    fn lapsed(&self) -> BoxFuture<'_, ()> {
        Box::pin(pending())
    }
}

/// Three PUTs and two completions make an object visible; parts do not.
#[tokio::test]
async fn the_gate_is_asked_before_each_object_becomes_visible() {
    for open_for in 0..=5 {
        let setup = Setup::new();
        let gate = Arc::new(Gate {
            open_for,
            ..Gate::default()
        });
        let engine = setup.engine().with_gate(Arc::<Gate>::clone(&gate));
        let counters = Arc::clone(&setup.counters);
        let sent = engine.upload(some_files(&setup), counters, &setup.cancel);
        match sent.await {
            Ok(_) => assert_eq!(open_for, 5),
            Err(error) => assert!(matches!(error, TransferError::Closed), "{error}"),
        }
        // One that was let through may still have been stopped because of another that was not.
        assert!(setup.memory.objects().len() <= open_for, "{open_for}");
        assert_eq!(setup.memory.open_uploads(), 0);
        if open_for == 5 {
            assert_eq!(gate.asked.load(Ordering::Relaxed), 5);
            assert_all_there(&setup);
        }
    }
}

/// Whether it is certain that one may publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Good,
    Old,
    Over,
}

/// Open as long as the test says so.
#[derive(Debug)]
struct Lease {
    word: watch::Sender<Word>,
}

impl PublishGate for Lease {
    fn pass(&self) -> BoxFuture<'_, Result<(), Closed>> {
        let mut word = self.word.subscribe();
        async move {
            match *word.wait_for(|word| *word != Word::Old).await.unwrap() {
                Word::Good => Ok(()),
                _ => Err(Closed),
            }
        }
        .boxed()
    }

    fn lapsed(&self) -> BoxFuture<'_, ()> {
        let mut word = self.word.subscribe();
        async move {
            word.wait_for(|word| *word != Word::Good).await.unwrap();
        }
        .boxed()
    }
}

async fn until_held(setup: &Setup, calls: usize) {
    let waiting = async {
        while setup.faulty.held() != calls {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap();
}

/// By the time that the store has it wholly, another executor may have stored its own.
#[tokio::test]
async fn a_request_that_is_under_way_when_the_gate_lapses_is_broken_off() {
    for (len, operation) in [(10, Operation::Put), (1000, Operation::CompleteMultipart)] {
        for afterwards in [Word::Good, Word::Over] {
            let mut setup = Setup::with(|store| store.on(operation, 0, Fault::Hold));
            setup.options.response_timeout = DEADLINE;
            let lease = Arc::new(Lease {
                word: watch::Sender::new(Word::Good),
            });
            let engine = setup.engine().with_gate(Arc::<Lease>::clone(&lease));
            let file = setup.file("k", &bytes(len));
            let counters = Arc::clone(&setup.counters);
            let upload = engine.upload(vec![file], counters, &setup.cancel);
            let lapse = async {
                until_held(&setup, 1).await;
                lease.word.send_replace(Word::Old);
                until_held(&setup, 0).await;
                // Too late.
                setup.faulty.release();
                assert_eq!(setup.memory.objects(), []);
                lease.word.send_replace(afterwards);
            };
            let (sent, ()) = tokio::join!(upload, lapse);
            if afterwards == Word::Good {
                assert_eq!(sent.unwrap().len(), 1);
                let calls = setup.faulty.calls();
                let sent = calls.iter().filter(|call| **call == operation).count();
                assert_eq!(sent, 2);
                let object = setup.memory.object(&ObjectName::new("b", "k")).unwrap();
                assert_eq!(object, bytes(len));
            } else {
                assert!(matches!(sent.unwrap_err(), TransferError::Closed));
                assert_eq!(setup.memory.objects(), []);
            }
            assert_eq!(setup.memory.open_uploads(), 0);
        }
    }
}

/// By now it may be what another executor has stored.
#[tokio::test]
async fn an_object_is_not_removed_when_the_gate_is_closed() {
    let other = ObjectChecksum::FullObject(Crc64Nvme::of(b"other"));
    let setup = Setup::with(|store| store.on(Operation::Put, 0, Fault::Checksum(other)));
    let gate = Gate {
        open_for: 1,
        ..Gate::default()
    };
    let engine = setup.engine().with_gate(Arc::new(gate));
    let file = setup.file("small", &bytes(10));
    let sent = engine.upload(vec![file], Arc::clone(&setup.counters), &setup.cancel);
    assert!(matches!(sent.await.unwrap_err(), TransferError::Closed));
    assert!(!setup.faulty.calls().contains(&Operation::Delete));
}

/// An upload whose id was lost looks like another executor's, which may have taken over since.
#[tokio::test]
async fn uploads_of_others_are_not_aborted_when_the_gate_is_closed() {
    use cts_executor::object_store::ObjectStore;
    let lose = Fault::LoseAnswer(StoreErrorKind::Unavailable);
    let setup = Setup::with(|store| store.on(Operation::CreateMultipart, 0, lose));
    let engine = setup.engine().with_gate(Arc::new(Gate::default()));
    let file = setup.file("many", &bytes(1000));
    let _others = setup.memory.create_multipart(&file.object).await.unwrap();
    let sent = engine.upload(vec![file], Arc::clone(&setup.counters), &setup.cancel);
    assert!(matches!(sent.await.unwrap_err(), TransferError::Closed));
    // The other's, and the one whose id was lost.
    assert_eq!(setup.memory.open_uploads(), 2);

    let engine = setup.engine().with_gate(Arc::new(Gate::default()));
    assert_eq!(engine.abort_orphans("b", "").await.unwrap(), 0);
    assert_eq!(setup.memory.open_uploads(), 2);
}
