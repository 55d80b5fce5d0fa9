//! Objects as streams. Parts have 40 bytes, four are in memory.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use cts_executor::object_store::faulty::{Fault, Operation};
use cts_executor::object_store::{ObjectName, StoreErrorKind};
use cts_executor::transfer::{ObjectStream, StreamRequest, TransferError};
use cts_shared::crc64nvme::Crc64Nvme;

use crate::setup::{DEADLINE, Setup, bytes};

/// Puts an object there; returns how to ask for it.
fn object(setup: &Setup, body: &[u8]) -> StreamRequest {
    let download = setup.object("k", body);
    StreamRequest {
        object: download.object,
        expected: download.expected,
        earlier: None,
    }
}

async fn open(setup: &Setup, request: StreamRequest) -> Result<ObjectStream, TransferError> {
    let engine = setup.engine();
    let opening = engine.stream(request, Arc::clone(&setup.counters), &setup.cancel);
    tokio::time::timeout(DEADLINE, opening).await.unwrap()
}

/// Runs what blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let work = tokio::task::spawn_blocking(work);
    tokio::time::timeout(DEADLINE, work).await.unwrap().unwrap()
}

/// Reads all; what was read, and the verdict.
async fn read_all(stream: ObjectStream) -> (Vec<u8>, Result<Crc64Nvme, TransferError>) {
    blocking(move || {
        let mut stream = stream;
        let mut read = Vec::new();
        // An error of the reading is that of the end as well.
        let _also_at_the_end = stream.read_to_end(&mut read);
        (read, stream.finish())
    })
    .await
}

#[tokio::test]
async fn every_size_comes_whole_and_in_order() {
    for len in [0, 1, 39, 40, 41, 80, 120, 160, 161, 1000, 4000] {
        let setup = Setup::new();
        let body = bytes(len);
        let stream = open(&setup, object(&setup, &body)).await.unwrap();
        assert_eq!(stream.size(), len as u64);
        let (read, verdict) = read_all(stream).await;
        assert_eq!(read, body, "{len}");
        assert_eq!(verdict.unwrap(), Crc64Nvme::of(&body));
        assert_eq!(setup.counters.snapshot().bytes_done, len as u64);
    }
}

#[tokio::test]
async fn every_broken_connection_is_mended() {
    let body = bytes(400);
    for fault in [
        Fault::BreakBody(13),
        Fault::EndBody(13),
        Fault::StallBody(13),
        Fault::Stall,
        Fault::Fail(StoreErrorKind::Unavailable),
        Fault::Fail(StoreErrorKind::Throttled),
    ] {
        for n in [0, 1, 5, 9] {
            let setup = Setup::with(|store| store.on(Operation::Get, n, fault.clone()));
            let stream = open(&setup, object(&setup, &body)).await.unwrap();
            let (read, verdict) = read_all(stream).await;
            assert_eq!(read, body, "{fault:?} of GET {n}");
            verdict.unwrap();
            assert_eq!(setup.counters.snapshot().retries, 1);
        }
    }
}

#[tokio::test]
async fn a_store_that_stays_away_ends_the_stream_with_its_error() {
    let setup = Setup::with(|store| {
        let lost = Fault::Fail(StoreErrorKind::Unavailable);
        (3..40).fold(store, |store, n| store.on(Operation::Get, n, lost.clone()))
    });
    let stream = open(&setup, object(&setup, &bytes(400))).await.unwrap();
    let (read, verdict) = read_all(stream).await;
    assert_eq!(read, bytes(400)[..read.len()]);
    assert!(read.len() < 400);
    assert!(
        matches!(verdict, Err(TransferError::Store(_))),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn an_object_that_is_not_there_is_told_at_once() {
    let setup = Setup::new();
    let request = StreamRequest {
        object: ObjectName::new("b", "absent"),
        expected: Crc64Nvme::of(b"x"),
        earlier: None,
    };
    let error = open(&setup, request).await.unwrap_err();
    let TransferError::Store(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.kind(), StoreErrorKind::NotFound);
}

#[tokio::test]
async fn an_object_that_is_replaced_meanwhile_is_never_mixed() {
    let setup = Setup::new();
    let request = object(&setup, &bytes(4000));
    let stream = open(&setup, request).await.unwrap();
    object(&setup, &[7; 4000]);
    let (read, verdict) = read_all(stream).await;
    assert!(read.len() < 4000 && read == bytes(4000)[..read.len()]);
    assert!(
        matches!(verdict, Err(TransferError::InputChanged { .. })),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn other_bytes_are_a_mismatch_that_names_both_checksums() {
    let setup = Setup::new();
    let mut request = object(&setup, &bytes(400));
    let (expected, actual) = (Crc64Nvme::of(b"other"), Crc64Nvme::of(&bytes(400)));
    request.expected = expected;
    for earlier in [None, Some(actual)] {
        request.earlier = earlier;
        let stream = open(&setup, request.clone()).await.unwrap();
        let error = read_all(stream).await.1.unwrap_err();
        let words = error.to_string();
        for part in [
            "s3://b/k",
            &expected.to_string(),
            &actual.to_string(),
            "ETag",
        ] {
            assert!(words.contains(part), "{words}");
        }
        assert!(matches!(
            error,
            TransferError::ChecksumMismatch { is_other_content, .. }
                if is_other_content == earlier.is_some()
        ));
    }
}

#[tokio::test]
async fn a_flipped_bit_is_a_mismatch_also_in_bytes_that_nobody_read() {
    let setup = Setup::with(|store| store.on(Operation::Get, 7, Fault::FlipBit(3)));
    let stream = open(&setup, object(&setup, &bytes(400))).await.unwrap();
    let verdict = blocking(move || {
        let mut stream = stream;
        stream.read_exact(&mut [0; 10]).unwrap();
        stream.finish()
    })
    .await;
    assert!(matches!(
        verdict,
        Err(TransferError::ChecksumMismatch {
            is_other_content: false,
            ..
        })
    ));
}

#[tokio::test]
async fn a_slow_reader_holds_the_fetching_up() {
    let setup = Setup::new();
    let stream = open(&setup, object(&setup, &bytes(4000))).await.unwrap();
    let store = Arc::clone(&setup.faulty);
    blocking(move || {
        let mut stream = stream;
        let end = Instant::now() + DEADLINE;
        for part in 1..=100 {
            stream.read_exact(&mut [0; 40]).unwrap();
            // The one in hand, and three ahead of it.
            let ahead = (part + 3).min(100);
            while store.calls().len() < ahead {
                assert!(Instant::now() < end, "part {ahead} is not fetched ahead");
                std::thread::yield_now();
            }
            assert_eq!(store.calls().len(), ahead);
        }
        stream.finish().unwrap();
    })
    .await;
}

#[tokio::test]
async fn ranges_can_be_read_beside_the_stream() {
    let setup = Setup::with(|store| store.on(Operation::Get, 3, Fault::BreakBody(5)));
    let body = bytes(400);
    let stream = open(&setup, object(&setup, &body)).await.unwrap();
    blocking(move || {
        let mut stream = stream;
        assert_eq!(stream.read_at(350, 50).unwrap(), body[350..]);
        assert_eq!(stream.read_at(0, 100).unwrap(), body[..100]);
        stream.read_exact(&mut [0; 60]).unwrap();
        assert_eq!(stream.read_at(100, 200).unwrap(), body[100..300]);
        let passed = stream.read_at(79, 2).unwrap_err();
        assert_eq!(passed.kind(), std::io::ErrorKind::InvalidInput);
        assert_eq!(stream.read_at(400, 0).unwrap().len(), 0);
        let beyond = stream.read_at(390, 11).unwrap_err();
        assert_eq!(beyond.kind(), std::io::ErrorKind::UnexpectedEof);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, body[60..]);
        stream.finish().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_bit_that_flips_in_what_is_read_ahead_is_told() {
    for (start, len, at) in [(0, 400, 0), (30, 20, 19), (80, 40, 5), (399, 1, 0)] {
        let mut setup = Setup::with(|store| store.on(Operation::Get, 1, Fault::FlipBit(at)));
        // The first GET is for the whole.
        setup.options.stream_part_bytes = 400;
        let body = bytes(400);
        let stream = open(&setup, object(&setup, &body)).await.unwrap();
        let (read, verdict) = blocking(move || {
            let mut stream = stream;
            let read = stream.read_at(start, len).unwrap();
            stream.read_exact(&mut [0; 10]).unwrap();
            (read, stream.finish())
        })
        .await;
        let from = usize::try_from(start).unwrap();
        assert_ne!(read, body[from..from + len]);
        let error = verdict.unwrap_err();
        let words = error.to_string();
        let bytes = start..start + len as u64;
        let named = format!("bytes {} to {} of s3://b/k", bytes.start, bytes.end);
        assert!(words.contains(&named), "{words}");
        assert!(matches!(error, TransferError::ReadDifferently { .. }));
    }
}

#[tokio::test]
async fn cancelling_ends_a_read_that_waits() {
    let mut setup = Setup::with(|store| store.on(Operation::Get, 2, Fault::StallBody(3)));
    setup.options.stall_window = DEADLINE;
    let stream = open(&setup, object(&setup, &bytes(400))).await.unwrap();
    let reading = tokio::spawn(read_all(stream));
    setup.cancel.cancel();
    let cancelled = Instant::now();
    let (_, verdict) = reading.await.unwrap();
    assert!(cancelled.elapsed() < DEADLINE / 4);
    assert!(
        matches!(verdict, Err(TransferError::Cancelled)),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn dropping_the_stream_stops_the_fetching() {
    let setup = Setup::new();
    let stream = open(&setup, object(&setup, &bytes(4000))).await.unwrap();
    blocking(move || {
        let mut stream = stream;
        stream.read_exact(&mut [0; 40]).unwrap();
    })
    .await;
    // All that had a buffer may have asked; what held the store is gone soon.
    let end = Instant::now() + DEADLINE;
    while Arc::strong_count(&setup.faulty) > 1 {
        assert!(Instant::now() < end, "something still fetches");
        tokio::task::yield_now().await;
    }
    assert!(setup.faulty.calls().len() <= 5);
}
