//! Transitions as others are told of them.

use std::time::Duration;

use cts_service::outbox::{Event, Unsent};
use cts_shared::id::JobId;
use cts_shared::state::JobState;

use crate::Store;
use crate::fixtures::{at, insert, new_job, reported};

pub(crate) async fn check<S: Store, F: Future<Output = S>>(fresh: &mut impl FnMut() -> F) {
    transitions_are_followed_from_any_of_them(&fresh().await).await;
    what_is_sent_is_not_sent_again_unless_asked(&fresh().await).await;
    changes_are_noticed(&fresh().await).await;
}

async fn all(store: &impl Store) -> Vec<Event> {
    store.events_after(None, None, 1000).await.unwrap().unwrap()
}

fn ids(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.trans_id.clone()).collect()
}

async fn transitions_are_followed_from_any_of_them(store: &impl Store) {
    assert_eq!(store.newest().await.unwrap(), None);
    let mut bobs = new_job(1);
    bobs.user = "bob".to_owned();
    let alices = insert(store, 1).await.id;
    store.insert_job(bobs.clone()).await.unwrap();
    for id in [alices, bobs.id] {
        store
            .change_job(id, reported(0, JobState::JobSubmitting, at(20)))
            .await
            .unwrap();
    }
    let events = all(store).await;
    let told: Vec<(JobId, &str, JobState)> = events
        .iter()
        .map(|event| (event.job_id, event.user.as_str(), event.state))
        .collect();
    assert_eq!(
        told,
        [
            (alices, "alice", JobState::Created),
            (bobs.id, "bob", JobState::Created),
            (alices, "alice", JobState::DownloadSubmitted),
            (alices, "alice", JobState::JobSubmitting),
            (bobs.id, "bob", JobState::DownloadSubmitted),
            (bobs.id, "bob", JobState::JobSubmitting),
        ]
    );
    assert_eq!(events[0].time, at(10));
    let ids = ids(&events);
    assert_eq!(store.newest().await.unwrap().as_ref(), ids.last());
    let after = async |index: usize, user: Option<&str>, limit| {
        let user = user.map(ToOwned::to_owned);
        store
            .events_after(Some(ids[index].clone()), user, limit)
            .await
            .unwrap()
            .unwrap()
    };
    assert_eq!(after(2, None, 10).await, events[3..]);
    assert_eq!(after(2, None, 1).await, events[3..4]);
    assert_eq!(after(2, Some("bob"), 10).await, events[4..]);
    assert_eq!(after(5, None, 10).await, []);
    assert_eq!(
        store
            .events_after(Some("unknown".to_owned()), None, 10)
            .await
            .unwrap(),
        None
    );
    let transitions = store
        .job_summary(alices)
        .await
        .unwrap()
        .unwrap()
        .transitions;
    assert_eq!(transitions[2].trans_id, ids[3]);
}

async fn what_is_sent_is_not_sent_again_unless_asked(store: &impl Store) {
    let id = insert(store, 1).await.id;
    store
        .change_job(id, reported(0, JobState::JobSubmitting, at(20)))
        .await
        .unwrap();
    let other = insert(store, 1).await.id;
    let events = all(store).await;
    assert_eq!(store.to_send(None, 10).await.unwrap(), events);
    assert_eq!(store.to_send(None, 2).await.unwrap(), events[..2]);
    let after = |event: &Event| Some(event.trans_id.clone());
    let next = store.to_send(after(&events[0]), 2).await.unwrap();
    assert_eq!(next, events[1..3]);
    assert_eq!(store.to_send(after(&events[3]), 2).await.unwrap(), []);
    let from_the_first = store.to_send(Some("unknown".to_owned()), 10).await;
    assert_eq!(from_the_first.unwrap(), events);
    // Nobody else writes here.
    assert_eq!(store.adopt(at(100_000)).await.unwrap(), 0);
    assert_eq!(store.to_send(None, 10).await.unwrap(), events);
    assert_eq!(
        store.unsent(None).await.unwrap(),
        Unsent {
            transitions: 4,
            jobs: 2,
            oldest: Some(at(10)),
        }
    );
    // What a report brings about has the report's time: second 20.
    assert_eq!(store.unsent(Some(at(20))).await.unwrap().transitions, 2);
    assert_eq!(store.unsent(Some(at(10))).await.unwrap(), Unsent::default());

    let mut sent = ids(&events);
    let kept = sent.remove(3);
    sent.push("unknown".to_owned());
    store.mark_sent(sent).await.unwrap();
    assert_eq!(
        ids(&store.to_send(None, 10).await.unwrap()),
        std::slice::from_ref(&kept)
    );
    let transitions = async |id| store.job_summary(id).await.unwrap().unwrap().transitions;
    assert!(transitions(id).await.iter().all(|one| one.notif_sent));
    assert!(!transitions(other).await[0].notif_sent);

    assert!(store.resend(id, JobState::JobSubmitting).await.unwrap());
    assert!(!store.resend(id, JobState::Complete).await.unwrap());
    let unknown = JobId::new(uuid::Uuid::new_v4());
    assert!(!store.resend(unknown, JobState::Created).await.unwrap());
    let again = events[2].trans_id.clone();
    assert_eq!(
        ids(&store.to_send(None, 10).await.unwrap()),
        [again.clone(), kept.clone()],
        "in the order of the transitions"
    );
    assert!(
        transitions(id).await.iter().all(|one| one.notif_sent),
        "asking for it again does not make it unsent"
    );
    store.mark_sent(vec![again, kept]).await.unwrap();
    assert_eq!(store.to_send(None, 10).await.unwrap(), []);
    assert_eq!(store.unsent(None).await.unwrap(), Unsent::default());
}

async fn changes_are_noticed(store: &impl Store) {
    let mut changes = store.changes();
    changes.mark_unchanged();
    let id = insert(store, 1).await.id;
    tokio::time::timeout(Duration::from_secs(10), changes.changed())
        .await
        .expect("a stored job is a change")
        .unwrap();
    assert_eq!(all(store).await[0].job_id, id);
}
