//! Documents of the collection `refdata` (contract service.md, section 7.1), also those of the existing service.

use mongodb::bson::{Bson, DateTime, Document, doc};

use cts_service::refdata_store::{Begun, Recorded, RefdataStore, status_at};
use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;

use super::TestDatabase;
use crate::fixtures::at;
use crate::refdata::{event, refdata};

fn date(second: i64) -> Bson {
    DateTime::from_millis(second * 1000).into()
}

/// As the existing service writes it: failed at one site, being staged at another.
pub(crate) fn old_refdata(id: &str) -> Document {
    let transition = |state: &str, second| doc! {"state": state, "time": date(second)};
    doc! {
        "id": id,
        "file": "buk/old",
        "crc64nvme": "AAAAAAAAAAA=",
        "unpack": false,
        "registered_by": "admin",
        "registered_on": date(5),
        "statuses": [
            {
                "cluster": "perlmutter-jaws",
                "state": "error",
                "transition_times": [transition("created", 5), transition("error", 6)],
                "cleaned": false,
                "nersc_download_task_id": ["17"],
                "error": "An unexpected error occurred",
                "admin_error": "no transfer",
                "traceback": Bson::Null,
                "_update_time": date(6),
            },
            {
                "cluster": "kbase",
                "state": "created",
                "transition_times": [transition("created", 5)],
                "cleaned": false,
                "nersc_download_task_id": Bson::Null,
                "error": Bson::Null,
                "admin_error": Bson::Null,
                "traceback": Bson::Null,
                "_update_time": date(5),
                "of_a_later_version": {"a": 1},
            },
        ],
        "of_a_later_version": "stays",
    }
}

#[tokio::test]
async fn what_the_existing_service_registered_goes_on_here() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let documents = database.collection("refdata").await;
    documents.insert_one(old_refdata("r-1")).await.unwrap();
    let id: RefdataId = "r-1".parse().unwrap();

    let found = store.refdata(id.clone()).await.unwrap().unwrap();
    assert_eq!(found.registered_on, at(5));
    let failed = status_at(&found, Site::PerlmutterJaws).unwrap();
    assert_eq!(failed.nersc_download_task_id, Some(vec!["17".to_owned()]));
    assert_eq!(failed.admin_error.as_deref(), Some("no transfer"));
    let mut again = refdata("old", at(9));
    again.crc64nvme = None;
    assert!(!store.insert_refdata(again).await.unwrap());

    for (state, second) in [
        (RefdataState::DownloadSubmitted, 20),
        (RefdataState::Complete, 21),
    ] {
        let recorded = store.record_refdata(id.clone(), Site::Kbase, event(state, at(second)));
        assert_eq!(recorded.await.unwrap(), Recorded::Entered);
    }
    assert_eq!(
        store
            .begin_refdata(id.clone(), Site::Local, at(30))
            .await
            .unwrap(),
        Begun::Yes
    );
    let stored = documents.find_one(doc! {"id": "r-1"}).await.unwrap();
    let stored = stored.unwrap();
    let old = old_refdata("r-1");
    assert_eq!(
        stored.get("of_a_later_version"),
        old.get("of_a_later_version")
    );
    let statuses = stored.get_array("statuses").unwrap();
    assert_eq!(statuses[0], old.get_array("statuses").unwrap()[0]);
    let staged = statuses[1].as_document().unwrap();
    assert_eq!(staged.get_str("state").unwrap(), "complete");
    assert_eq!(staged.get("_update_time"), Some(&date(21)));
    assert_eq!(
        staged.get("of_a_later_version"),
        Some(&doc! {"a": 1}.into())
    );
    assert_eq!(statuses.len(), 3);
}

/// The existing service makes ids of its own: two of its requests at the same moment register a file twice.
#[tokio::test]
async fn a_file_that_is_registered_twice_is_found_twice() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let documents = database.collection("refdata").await;
    for id in ["r-1", "r-2"] {
        documents.insert_one(old_refdata(id)).await.unwrap();
    }
    let found = store.refdata_of_file("buk/old".to_owned()).await.unwrap();
    let ids: Vec<&str> = found.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["r-1", "r-2"]);
}

#[tokio::test]
async fn one_that_cannot_be_read_keeps_nobody_from_the_others() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let good = refdata("good", at(10));
    assert!(store.insert_refdata(good.clone()).await.unwrap());
    let documents = database.collection("refdata").await;
    let mut bad = old_refdata("not an id");
    bad.insert("file", "buk/bad");
    documents.insert_one(bad).await.unwrap();
    assert_eq!(
        store.list_refdata().await.unwrap(),
        std::slice::from_ref(&good)
    );
    assert_eq!(store.unstaged_refdata().await.unwrap(), [good]);
}

/// The server has acted, and says that it does not know whether a majority has.
#[tokio::test]
async fn a_lost_answer_is_no_failure() {
    let Some(mut database) = TestDatabase::new() else {
        return;
    };
    database.name_calls().await;
    let store = database.open().await;
    let lose_next = async || {
        let failure = doc! {
            "writeConcernError": {"code": 64, "errmsg": "no majority in time"},
        };
        database
            .fail("update", doc! {"times": 1}.into(), failure)
            .await;
    };
    let one = refdata("a", at(10));
    lose_next().await;
    assert!(store.insert_refdata(one.clone()).await.unwrap());
    lose_next().await;
    let recorded = store.record_refdata(
        one.id.clone(),
        Site::Local,
        event(RefdataState::Error, at(20)),
    );
    let recorded = recorded.await.unwrap();
    assert!(
        matches!(recorded, Recorded::Entered | Recorded::AlreadyTrue),
        "{recorded:?}"
    );
    lose_next().await;
    let begun = store.begin_refdata(one.id.clone(), Site::Kbase, at(30));
    assert_eq!(begun.await.unwrap(), Begun::Yes);
    let stored = store.refdata(one.id).await.unwrap().unwrap();
    let transitions = |site| {
        status_at(&stored, site)
            .unwrap()
            .status
            .transition_times
            .len()
    };
    assert_eq!((transitions(Site::Local), transitions(Site::Kbase)), (2, 1));
}
