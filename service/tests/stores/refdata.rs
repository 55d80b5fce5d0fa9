//! Reference data registered, found, staged, failed, cleaned and begun anew.

use cts_service::refdata_store::{
    Begun, Recorded, Refdata, RefdataEvent, RefdataStore, USER_ERROR, began, new_status, status_at,
};
use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState::{self, Complete, Created, DownloadSubmitted, Error};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::refdata::{AdminRefdataStatus, RefdataUpdate};

use crate::Store;
use crate::fixtures::at;

pub(crate) async fn check<S: Store, F: Future<Output = S>>(mut fresh: impl FnMut() -> F) {
    what_is_registered_is_found(&fresh().await).await;
    a_file_is_registered_once(&fresh().await).await;
    every_step_is_the_tables(&fresh().await).await;
    steps_are_recorded(&fresh().await).await;
    one_of_many_at_once_is_recorded(&fresh().await).await;
    a_status_begins_where_there_is_none_or_a_cleaned_failure(&fresh().await).await;
    what_begins_anew_is_another(&fresh().await).await;
    what_ended_long_ago_is_to_clean(&fresh().await).await;
}

/// Registered at a time, with a status for the site `local`.
pub(crate) fn refdata(file: &str, time: UtcTime) -> Refdata {
    Refdata {
        id: RefdataId::of_uuid(uuid::Uuid::new_v4()),
        registered_by: "admin".to_owned(),
        registered_on: time,
        file: format!("buk/{file}"),
        crc64nvme: Some("AAAAAAAAAAA=".to_owned()),
        unpack: true,
        statuses: vec![new_status(Site::Local, time)],
    }
}

pub(crate) fn event(state: RefdataState, time: UtcTime) -> RefdataEvent {
    RefdataEvent {
        state,
        time,
        only_from: None,
        only_begun: None,
        report: RefdataUpdate {
            admin_error: Some("broken".to_owned()),
            traceback: Some("line 1".to_owned()),
        },
    }
}

async fn inserted(store: &impl RefdataStore, file: &str) -> RefdataId {
    let refdata = refdata(file, at(10));
    assert!(store.insert_refdata(refdata.clone()).await.unwrap());
    refdata.id
}

async fn record(
    store: &impl RefdataStore,
    id: &RefdataId,
    state: RefdataState,
    second: i64,
) -> Recorded {
    let recorded = store.record_refdata(id.clone(), Site::Local, event(state, at(second)));
    recorded.await.unwrap()
}

async fn status(store: &impl RefdataStore, id: &RefdataId) -> AdminRefdataStatus {
    let refdata = store.refdata(id.clone()).await.unwrap().unwrap();
    status_at(&refdata, Site::Local).unwrap().clone()
}

async fn what_is_registered_is_found(store: &impl RefdataStore) {
    let (second, first) = (refdata("b", at(10)), refdata("a", at(11)));
    let mut plain = refdata("c/d", at(12));
    plain.crc64nvme = None;
    plain.unpack = false;
    plain.statuses = Vec::new();
    for one in [&second, &first, &plain] {
        assert!(store.insert_refdata(one.clone()).await.unwrap());
    }
    let by_id = store.refdata(second.id.clone()).await.unwrap();
    assert_eq!(by_id, Some(second.clone()));
    let none = RefdataId::of_uuid(uuid::Uuid::new_v4());
    assert_eq!(store.refdata(none).await.unwrap(), None);
    let by_file = async |file: &str| store.refdata_of_file(file.to_owned()).await.unwrap();
    assert_eq!(by_file("buk/c/d").await, [plain.clone()]);
    for other in ["buk/c/", "buk/c/d ", "buk/C/d", ""] {
        assert_eq!(by_file(other).await, [], "{other:?}");
    }
    let listed = store.list_refdata().await.unwrap();
    assert_eq!(listed, [first.clone(), second.clone(), plain]);
    let unstaged = store.unstaged_refdata().await.unwrap();
    assert_eq!(unstaged, [first, second]);
}

async fn a_file_is_registered_once(store: &(impl RefdataStore + Clone + 'static)) {
    // Many at once: one gets it.
    let contenders = (0..16).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.insert_refdata(refdata("a", at(10))).await.unwrap() })
    });
    let mut taken = 0;
    for contender in contenders.collect::<Vec<_>>() {
        taken += usize::from(contender.await.unwrap());
    }
    assert_eq!(taken, 1);
    assert_eq!(store.list_refdata().await.unwrap().len(), 1);
    assert!(!store.insert_refdata(refdata("a", at(11))).await.unwrap());
    assert!(store.insert_refdata(refdata("A", at(11))).await.unwrap());
}

async fn every_step_is_the_tables(store: &impl RefdataStore) {
    let way = |state| match state {
        Created => &[][..],
        DownloadSubmitted => &[DownloadSubmitted],
        Complete => &[DownloadSubmitted, Complete],
        Error => &[Error],
    };
    for current in RefdataState::ALL {
        for next in RefdataState::ALL {
            let id = inserted(store, &format!("{current}-{next}")).await;
            for step in way(current) {
                assert_eq!(record(store, &id, *step, 20).await, Recorded::Entered);
            }
            let before = status(store, &id).await;
            let expected = match current.enter(next) {
                Ok(cts_shared::state::Step::Enter) => Recorded::Entered,
                Ok(cts_shared::state::Step::AlreadyTrue) => Recorded::AlreadyTrue,
                Err(_) => Recorded::Refused(current),
            };
            assert_eq!(
                record(store, &id, next, 30).await,
                expected,
                "{current} to {next}"
            );
            let after = status(store, &id).await;
            if expected == Recorded::Entered {
                assert_eq!(after.status.state, next);
            } else {
                assert_eq!(after, before, "{current} to {next}");
            }
        }
    }
    let none = RefdataId::of_uuid(uuid::Uuid::new_v4());
    assert_eq!(record(store, &none, Error, 20).await, Recorded::Unknown);
    let id = inserted(store, "elsewhere").await;
    let elsewhere = store.record_refdata(id, Site::Kbase, event(Error, at(20)));
    assert_eq!(elsewhere.await.unwrap(), Recorded::Unknown);
}

async fn steps_are_recorded(store: &impl RefdataStore) {
    let id = inserted(store, "a").await;
    record(store, &id, DownloadSubmitted, 20).await;
    let only_from_created = RefdataEvent {
        only_from: Some(Created),
        ..event(Error, at(21))
    };
    let refused = store.record_refdata(id.clone(), Site::Local, only_from_created);
    assert_eq!(refused.await.unwrap(), Recorded::Refused(DownloadSubmitted));
    // A clock that is behind.
    record(store, &id, Complete, 15).await;
    let complete = status(store, &id).await;
    let times = |status: &AdminRefdataStatus| -> Vec<(RefdataState, UtcTime)> {
        let transitions = status.status.transition_times.iter();
        transitions.map(|one| (one.state, one.time)).collect()
    };
    assert_eq!(
        times(&complete),
        [
            (Created, at(10)),
            (DownloadSubmitted, at(20)),
            (Complete, at(20))
        ]
    );
    assert_eq!(
        (&complete.status.error, &complete.admin_error),
        (&None, &None)
    );
    assert_eq!(store.unstaged_refdata().await.unwrap(), []);

    record(store, &id, Error, 30).await;
    let failed = status(store, &id).await;
    assert_eq!(times(&failed).last(), Some(&(Error, at(30))));
    assert_eq!(failed.status.error.as_deref(), Some(USER_ERROR));
    assert_eq!(failed.admin_error.as_deref(), Some("broken"));
    assert_eq!(failed.traceback.as_deref(), Some("line 1"));
    assert!(!failed.cleaned);
}

async fn one_of_many_at_once_is_recorded(store: &(impl RefdataStore + Clone + 'static)) {
    let id = inserted(store, "a").await;
    let contenders = (0..16).map(|_| {
        let (store, id) = (store.clone(), id.clone());
        tokio::spawn(async move { record(&store, &id, DownloadSubmitted, 20).await })
    });
    let mut entered = 0;
    for contender in contenders.collect::<Vec<_>>() {
        match contender.await.unwrap() {
            Recorded::Entered => entered += 1,
            Recorded::AlreadyTrue => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(entered, 1);
    assert_eq!(status(store, &id).await.status.transition_times.len(), 2);
}

async fn a_status_begins_where_there_is_none_or_a_cleaned_failure(store: &impl RefdataStore) {
    let id = inserted(store, "a").await;
    let begin = async |site| {
        let begun = store.begin_refdata(id.clone(), site, at(50));
        begun.await.unwrap()
    };
    assert_eq!(begin(Site::Local).await, Begun::Exists(Created));
    assert_eq!(begin(Site::Kbase).await, Begun::Yes);
    assert_eq!(begin(Site::Kbase).await, Begun::Exists(Created));
    record(store, &id, Error, 20).await;
    assert_eq!(begin(Site::Local).await, Begun::Exists(Error));
    store
        .mark_refdata_cleaned(id.clone(), Site::Local)
        .await
        .unwrap();
    assert_eq!(begin(Site::Local).await, Begun::Yes);
    let refdata = store.refdata(id.clone()).await.unwrap().unwrap();
    assert_eq!(began(status_at(&refdata, Site::Local).unwrap()), at(50));
    for site in [Site::Local, Site::Kbase] {
        assert_eq!(status_at(&refdata, site), Some(&new_status(site, at(50))));
    }
    assert_eq!(refdata.statuses.len(), 2);
    let none = RefdataId::of_uuid(uuid::Uuid::new_v4());
    let begun = store.begin_refdata(none, Site::Local, at(50)).await;
    assert_eq!(begun.unwrap(), Begun::Unknown);
}

/// Also when the clock of the service that begins it is behind.
async fn what_begins_anew_is_another(store: &impl RefdataStore) {
    let id = inserted(store, "a").await;
    let first = began(&status(store, &id).await);
    record(store, &id, Error, 10).await;
    let cleaned = store.mark_refdata_cleaned(id.clone(), Site::Local);
    cleaned.await.unwrap();
    let begun = store.begin_refdata(id.clone(), Site::Local, at(10)).await;
    assert_eq!(begun.unwrap(), Begun::Yes);
    let before = status(store, &id).await;
    let second = began(&before);
    assert!(second > first, "{second:?}");
    let record_of = async |began, state| {
        let event = RefdataEvent {
            only_begun: Some(began),
            ..event(state, at(20))
        };
        let recorded = store.record_refdata(id.clone(), Site::Local, event);
        recorded.await.unwrap()
    };
    for state in [Created, DownloadSubmitted, Error] {
        let recorded = record_of(first, state).await;
        assert_eq!(recorded, Recorded::Refused(Created), "{state}");
        assert_eq!(status(store, &id).await, before, "{state}");
    }
    let recorded = record_of(second, DownloadSubmitted).await;
    assert_eq!(recorded, Recorded::Entered);
    let again = record_of(second, DownloadSubmitted).await;
    assert_eq!(again, Recorded::AlreadyTrue);
    let of_the_first = record_of(first, DownloadSubmitted).await;
    assert_eq!(of_the_first, Recorded::Refused(DownloadSubmitted));
}

async fn what_ended_long_ago_is_to_clean(store: &impl RefdataStore) {
    let running = inserted(store, "a").await;
    let failed = inserted(store, "b").await;
    let complete = inserted(store, "c").await;
    // The conditions are met by no status alone.
    let mixed = inserted(store, "d").await;
    store
        .begin_refdata(mixed.clone(), Site::Kbase, at(10))
        .await
        .unwrap();
    record(store, &mixed, Error, 90).await;
    record(store, &failed, Error, 20).await;
    record(store, &complete, DownloadSubmitted, 20).await;
    record(store, &complete, Complete, 30).await;
    let to_clean = async |second| store.refdata_to_clean(at(second)).await.unwrap();
    assert_eq!(to_clean(20).await, []);
    assert_eq!(to_clean(30).await, [(failed.clone(), Site::Local)]);
    assert_eq!(
        to_clean(40).await,
        [
            (failed.clone(), Site::Local),
            (complete.clone(), Site::Local)
        ]
    );
    for id in [&running, &failed] {
        let marked = store.mark_refdata_cleaned(id.clone(), Site::Local);
        marked.await.unwrap();
    }
    assert_eq!(to_clean(40).await, [(complete, Site::Local)]);
    assert!(status(store, &failed).await.cleaned);
    assert!(!status(store, &running).await.cleaned, "it has not ended");
}
