//! Cancelling: soon, and nothing is left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cts_executor::object_store::faulty::{Fault, Operation};

use crate::setup::{Setup, bytes};

/// Long enough for a loaded machine, far below any time limit in use.
const SOON: Duration = Duration::from_secs(30);

fn patient(mut setup: Setup) -> Setup {
    setup.options.response_timeout = Duration::from_secs(3600);
    setup.options.stall_window = Duration::from_secs(3600);
    setup
}

/// Waits until the store has been called `n` times, then cancels.
async fn cancel_after_calls(setup: &Setup, n: usize) -> Instant {
    let wait = async {
        while setup.faulty.calls().len() < n {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, wait).await.unwrap();
    setup.cancel.cancel();
    Instant::now()
}

#[tokio::test]
async fn a_stalled_download_ends_and_leaves_nothing_partial() {
    for fault in [Fault::Stall, Fault::StallBody(10)] {
        let mut setup = patient(Setup::with(|store| store.on_call(3, fault)));
        setup.options.cleanup_timeout = SOON;
        let items = vec![setup.object("a/b", &bytes(1000))];
        let (result, cancelled) =
            tokio::join!(setup.download(items), cancel_after_calls(&setup, 4));
        assert!(result.unwrap_err().is_cancelled());
        assert!(cancelled.elapsed() < SOON);
        assert_eq!(setup.files(), BTreeMap::new());
        setup.assert_no_partials();
    }
}

#[tokio::test]
async fn a_stalled_upload_ends_and_aborts_its_multipart_uploads() {
    for operation in [Operation::UploadPart, Operation::CompleteMultipart] {
        let setup = patient(Setup::with(|store| store.always(operation, Fault::Stall)));
        let items = vec![setup.file("k", &bytes(130))];
        let calls = if operation == Operation::UploadPart {
            2
        } else {
            5
        };
        let (result, cancelled) =
            tokio::join!(setup.upload(items), cancel_after_calls(&setup, calls));
        assert!(result.unwrap_err().is_cancelled());
        assert!(cancelled.elapsed() < SOON);
        assert_eq!(setup.memory.open_uploads(), 0);
        assert_eq!(setup.memory.objects(), []);
    }
}

#[tokio::test]
async fn cleaning_up_is_bounded_when_the_store_is_gone() {
    let setup = patient(Setup::with(|store| {
        store
            .always(Operation::UploadPart, Fault::Stall)
            .always(Operation::AbortMultipart, Fault::Stall)
    }));
    let items = vec![setup.file("k", &bytes(130))];
    let (result, cancelled) = tokio::join!(setup.upload(items), cancel_after_calls(&setup, 2));
    assert!(result.unwrap_err().is_cancelled());
    assert!(cancelled.elapsed() < SOON);
}

#[tokio::test]
async fn cancelled_before_it_starts_does_nothing() {
    let mut setup = Setup::new();
    setup.options.cleanup_timeout = SOON;
    setup.cancel.cancel();
    let items = vec![setup.object("k", b"body")];
    assert!(setup.download(items).await.unwrap_err().is_cancelled());
    let items = vec![setup.file("k", b"body")];
    assert!(setup.upload(items).await.unwrap_err().is_cancelled());
    assert_eq!(setup.faulty.calls(), []);
    assert_eq!(setup.files(), BTreeMap::new());
    setup.assert_no_partials();
}

#[tokio::test]
async fn dropping_the_future_stops_the_work() {
    let setup = patient(Setup::with(|store| {
        store.always(Operation::Get, Fault::StallBody(10))
    }));
    let items = vec![setup.object("k", &bytes(1000))];
    let wait = async {
        while setup.faulty.calls().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = setup.download(items) => panic!("it is stalled"),
        () = wait => {}
    }
    let gone = async {
        while std::fs::read_dir(setup.input()).unwrap().count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, gone).await.unwrap();
}
