//! Objects to files.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use cts_executor::object_store::faulty::{Fault, FaultyStore, Operation};
use cts_executor::object_store::{ObjectChecksum, ObjectName, StoreErrorKind};
use cts_executor::transfer::{Download, TransferError};
use cts_shared::crc64nvme::Crc64Nvme;

use crate::setup::{Setup, bytes};

const UNAVAILABLE: Fault = Fault::Fail(StoreErrorKind::Unavailable);

/// One of each kind: empty, small, exactly one part, one byte more, many parts.
fn some_objects(setup: &Setup) -> (Vec<Download>, BTreeMap<String, Vec<u8>>) {
    let bodies: BTreeMap<String, Vec<u8>> = [
        ("empty", 0),
        ("dir/small", 10),
        ("dir/one part", 100),
        ("dir/sub/one more", 101),
        ("many", 1000),
    ]
    .map(|(key, len)| (key.to_owned(), bytes(len)))
    .into();
    let items = bodies
        .iter()
        .map(|(key, body)| setup.object(key, body))
        .collect();
    (items, bodies)
}

#[tokio::test]
async fn all_sizes_arrive_checked_and_readable() {
    let setup = Setup::new();
    let (items, bodies) = some_objects(&setup);
    let summary = setup.download(items).await.unwrap();
    assert_eq!(setup.files(), bodies);
    assert_eq!((summary.files, summary.bytes), (5, 1211));
    let progress = setup.counters.snapshot();
    assert_eq!((progress.files_done, progress.files_total), (5, 5));
    assert_eq!((progress.bytes_done, progress.bytes_total), (1211, 1211));
    assert_eq!(progress.retries, 0);
    // 1 + 1 + 1 + 2 + 24: no request beyond the parts.
    assert_eq!(setup.faulty.calls(), vec![Operation::Get; 29]);
    let mode = |path| {
        setup
            .input()
            .join(path)
            .metadata()
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("dir/sub"), 0o755);
    assert_eq!(mode("dir/small"), 0o644);
    setup.assert_no_partials();
}

#[tokio::test]
async fn an_empty_object_that_is_not_expected_is_a_mismatch() {
    let setup = Setup::new();
    let mut item = setup.object("k", b"");
    item.expected = Crc64Nvme::new(1);
    let error = setup.download(vec![item]).await.unwrap_err();
    assert!(
        matches!(error, TransferError::ChecksumMismatch { .. }),
        "{error}"
    );
    assert_eq!(setup.files(), BTreeMap::new());
}

#[tokio::test]
async fn any_one_call_may_fail() {
    for n in 0..29 {
        for fault in [
            UNAVAILABLE,
            Fault::Fail(StoreErrorKind::Throttled),
            Fault::LoseAnswer(StoreErrorKind::Unavailable),
            Fault::BreakBody(0),
            Fault::BreakBody(3),
            Fault::EndBody(3),
        ] {
            let setup = Setup::with(|store| store.on_call(n, fault.clone()));
            let (items, bodies) = some_objects(&setup);
            setup.download(items).await.unwrap();
            assert_eq!(setup.files(), bodies, "{fault:?} at call {n}");
            let progress = setup.counters.snapshot();
            assert_eq!(progress.bytes_done, progress.bytes_total);
        }
    }
}

#[tokio::test]
async fn any_one_call_may_stall() {
    for fault in [Fault::Stall, Fault::StallBody(0), Fault::StallBody(5)] {
        for n in [0, 4, 12] {
            let setup = Setup::with(|store| store.on_call(n, fault.clone()));
            let (items, bodies) = some_objects(&setup);
            setup.download(items).await.unwrap();
            assert_eq!(setup.files(), bodies, "{fault:?} at call {n}");
        }
    }
}

#[tokio::test]
async fn a_body_cut_at_any_byte_goes_on_from_there() {
    for cut in 0..100 {
        let setup = Setup::with(|store| store.on_call(0, Fault::BreakBody(cut)));
        let body = bytes(100);
        let item = setup.object("k", &body);
        setup.download(vec![item]).await.unwrap();
        assert_eq!(setup.files(), BTreeMap::from([("k".to_owned(), body)]));
        // Nothing was moved twice.
        assert_eq!(setup.counters.snapshot().bytes_done, 100);
        assert_eq!(setup.counters.snapshot().retries, 1);
    }
}

#[tokio::test]
async fn a_permanent_failure_of_any_call_is_reported_and_leaves_nothing_partial() {
    for n in 0..29 {
        let fault = Fault::Fail(StoreErrorKind::AccessDenied);
        let setup = Setup::with(|store| store.on_call(n, fault));
        let (items, bodies) = some_objects(&setup);
        let error = setup.download(items).await.unwrap_err();
        assert!(error.is_permanent());
        assert!(
            error
                .to_string()
                .contains("access denied; check the S3 keys"),
            "{error}"
        );
        setup.assert_no_partials();
        for (name, body) in setup.files() {
            assert_eq!(bodies.get(&name), Some(&body), "{name} looks finished");
        }
    }
}

#[tokio::test]
async fn retries_end() {
    let setup = Setup::with(|store| store.always(Operation::Get, UNAVAILABLE));
    let (items, _) = some_objects(&setup);
    let error = setup.download(items).await.unwrap_err();
    assert!(!error.is_permanent());
    assert!(
        error.to_string().contains("cannot be used at the moment"),
        "{error}"
    );
    assert_eq!(setup.files(), BTreeMap::new());
    setup.assert_no_partials();
}

#[tokio::test]
async fn a_flipped_bit_is_fetched_once_more() {
    for at in [0, 50, 99] {
        let setup = Setup::with(|store| store.on_call(0, Fault::FlipBit(at)));
        let body = bytes(300);
        let item = setup.object("k", &body);
        setup.download(vec![item]).await.unwrap();
        assert_eq!(setup.files(), BTreeMap::from([("k".to_owned(), body)]));
        let progress = setup.counters.snapshot();
        assert_eq!((progress.bytes_done, progress.bytes_total), (300, 300));
        // 6 parts, twice.
        assert_eq!(setup.faulty.calls().len(), 12);
    }
}

#[tokio::test]
async fn two_flipped_bits_name_the_object_and_both_checksums_and_there_is_no_third_try() {
    let setup = Setup::with(|store| store.always(Operation::Get, Fault::FlipBit(3)));
    let item = setup.object("k", b"0123456789");
    let expected = item.expected;
    let actual = Crc64Nvme::of(b"0122456789");
    let error = setup.download(vec![item]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "input s3://b/k has CRC64NVME {actual}, expected {expected} (10 bytes, ETag 1, \
             last modified 2026-01-01T00:00:01Z); upload it again or submit the job with \
             the new checksum"
        )
    );
    assert_eq!(setup.faulty.calls().len(), 2);
    assert_eq!(setup.files(), BTreeMap::new());
    setup.assert_no_partials();
}

/// The same wrong bytes twice are what the store has: the user's business, not the network's.
#[tokio::test]
async fn other_content_is_told_from_damage_on_the_way() {
    for (second, expected) in [(3, true), (5, false)] {
        let setup = Setup::with(|store| {
            store
                .on_call(0, Fault::FlipBit(3))
                .on_call(1, Fault::FlipBit(second))
        });
        let item = setup.object("k", b"0123456789");
        let error = setup.download(vec![item]).await.unwrap_err();
        let TransferError::ChecksumMismatch {
            is_other_content, ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(is_other_content, expected);
    }
}

#[tokio::test]
async fn an_object_replaced_meanwhile_is_refused() {
    // At the second part, and at the first when it goes on after a break.
    for plan in [
        |store: FaultyStore| store.on_call(1, Fault::OtherEtag),
        |store: FaultyStore| {
            store
                .on_call(0, Fault::BreakBody(50))
                .on_call(1, Fault::Fail(StoreErrorKind::Changed))
        },
    ] {
        let mut setup = Setup::with(plan);
        setup.options.download_concurrency = 1;
        let item = setup.object("k", &bytes(300));
        let error = setup.download(vec![item]).await.unwrap_err();
        assert!(error.is_permanent());
        assert!(
            error
                .to_string()
                .starts_with("input s3://b/k was replaced while it was being"),
            "{error}"
        );
        assert_eq!(setup.files(), BTreeMap::new());
        setup.assert_no_partials();
    }
}

#[tokio::test]
async fn missing_objects_and_buckets_are_told_apart() {
    let setup = Setup::new();
    for (bucket, words) in [("b", "no such object"), ("c", "no such bucket")] {
        let item = Download {
            object: ObjectName::new(bucket, "none"),
            destination: "none".into(),
            expected: Crc64Nvme::new(1),
        };
        let error = setup.download(vec![item]).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    setup.assert_no_partials();
}

#[tokio::test]
async fn inputs_that_do_not_fit_are_refused_before_they_are_written() {
    let mut setup = Setup::new();
    setup.options.reserve_bytes = u64::MAX / 2;
    let item = setup.object("k", &bytes(300));
    let error = setup.download(vec![item]).await.unwrap_err();
    let TransferError::NoSpace {
        need_bytes,
        have_bytes,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(*need_bytes, 300 + u64::MAX / 2);
    assert!(have_bytes < need_bytes);
    assert!(
        error.to_string().contains("no space for the inputs"),
        "{error}"
    );
    assert_eq!(setup.counters.snapshot().bytes_done, 0);
    setup.assert_no_partials();
}

#[tokio::test]
async fn a_store_without_the_checksum_does_not_matter() {
    let setup = Setup::new();
    let body = bytes(300);
    let item = setup.object("k", &body);
    setup
        .memory
        .insert(&item.object, body, ObjectChecksum::Absent);
    setup.download(vec![item]).await.unwrap();
}

#[tokio::test]
async fn places_outside_the_input_directory_are_refused_before_any_request() {
    for place in ["../k", "/k", "a/../../k", "a/./k", ".cts-partial-x/k"] {
        let setup = Setup::new();
        let mut item = setup.object("k", b"body");
        item.destination = place.into();
        let error = setup.download(vec![item]).await.unwrap_err();
        assert!(
            matches!(error, TransferError::Destination { .. }),
            "{place}: {error}"
        );
        assert_eq!(setup.faulty.calls(), []);
        assert_eq!(setup.files(), BTreeMap::new());
    }
}

#[tokio::test]
async fn many_small_objects() {
    let setup = Setup::new();
    let items: Vec<_> = (0..10_000)
        .map(|n| setup.object(&format!("d{}/f{n}", n % 10), format!("{n}").as_bytes()))
        .collect();
    let summary = setup.download(items).await.unwrap();
    assert_eq!(summary.files, 10_000);
    assert_eq!(setup.faulty.calls().len(), 10_000);
    assert_eq!(setup.files().len(), 10_000);
}
