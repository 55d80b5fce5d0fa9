//! Documents and indexes are those of the contract (service.md, section 7.1), with its types.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt;
use mongodb::bson::spec::ElementType;
use mongodb::bson::{Bson, Document, doc};
use serde_json::json;
use uuid::Uuid;

use cts_service::job_store::JobStore;
use cts_service::outbox::Outbox;
use cts_service::site_store::SiteStore;
use cts_shared::id::JobId;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{Evidence, Statistics};
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::job::S3File;

use super::{TestDatabase, old_job, old_subjob, way_to};
use crate::fixtures::{at, failed, insert, new_job, report, reported};

use ElementType::{
    Array, Boolean, DateTime, Double, EmbeddedDocument, Int32, Int64, Null, String as Text,
};

/// Types by path; elements of arrays are one path. What is ours is left out.
fn types(value: &Bson, path: &str, found: &mut BTreeMap<String, ElementType>) {
    if !path.is_empty() {
        found.insert(path.to_owned(), value.element_type());
    }
    match value {
        Bson::Document(members) => {
            for (name, member) in members {
                if name != "_id" && name != "_cts" {
                    let path = format!("{path}.{name}");
                    types(member, path.trim_start_matches('.'), found);
                }
            }
        }
        Bson::Array(elements) => {
            for element in elements {
                types(element, &format!("{path}[]"), found);
            }
        }
        _ => {}
    }
}

fn types_of(document: &Document) -> BTreeMap<String, ElementType> {
    let mut found = BTreeMap::new();
    types(&Bson::Document(document.clone()), "", &mut found);
    found
}

fn table<const N: usize>(rows: [(&str, ElementType); N]) -> BTreeMap<String, ElementType> {
    rows.map(|(path, kind)| (path.to_owned(), kind)).into()
}

#[tokio::test]
async fn each_field_has_the_contracts_type() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let mut job = new_job(1);
    job.image.refdata_id = Some("r".to_owned());
    job.image.default_refdata_mount_point = Some("/r".to_owned());
    store.insert_job(job.clone()).await.unwrap();
    let id = job.id;
    store.add_htcondor_cluster(id, 7).await.unwrap();
    for (state, second) in [
        (JobState::JobSubmitting, 20),
        (JobState::JobSubmitted, 21),
        (JobState::UploadSubmitting, 22),
        (JobState::UploadSubmitted, 23),
    ] {
        let step = reported(0, state, at(second));
        store.change_job(id, step).await.unwrap();
    }
    let output = S3File {
        file: "buk/out/a".to_owned(),
        crc64nvme: Some("AAAAAAAAAAA=".to_owned()),
    };
    let mut complete = report(JobState::Complete, at(24));
    complete.outputs = Some(vec![output]);
    let ended = move |record: &mut cts_shared::state::job_flow::JobRecord| {
        Ok(record.apply_report(0, &complete).unwrap())
    };
    store.change_job(id, Box::new(ended)).await.unwrap();
    let checksums = HashMap::from([("buk/out/a".to_owned(), "AAAAAAAAAAA=".to_owned())]);
    store
        .change_job(
            id,
            Box::new(move |record| {
                let evidence = Evidence {
                    statistics: Statistics {
                        cpu_hours: Some(1.0),
                        cpu_factor: Some(1.0),
                        max_memory: Some(5),
                    },
                    statistics_due: false,
                    checksums: &checksums,
                    log_path: "buk/logs/x",
                    logs_stored: true,
                };
                Ok(record.finish(&evidence, at(25)).unwrap())
            }),
        )
        .await
        .unwrap();
    let filter = doc! {"id": id.to_string()};
    let jobs = database.collection("jobs").await;
    let job = jobs.find_one(filter.clone()).await.unwrap().unwrap();
    let common = [
        ("id", Text),
        ("state", Text),
        ("transition_times", Array),
        ("transition_times[]", EmbeddedDocument),
        ("transition_times[].state", Text),
        ("transition_times[].time", DateTime),
        ("transition_times[].trans_id", Text),
        ("transition_times[].notif_sent", Boolean),
        ("transition_times[]._retry", Int32),
        ("user", Text),
        ("admin_meta", EmbeddedDocument),
        ("job_input", EmbeddedDocument),
        ("job_input.cluster", Text),
        ("job_input.image", Text),
        ("job_input.params", EmbeddedDocument),
        ("job_input.params.input_mount_point", Text),
        ("job_input.params.output_mount_point", Text),
        ("job_input.params.declobber", Boolean),
        ("job_input.num_containers", Int64),
        ("job_input.cpus", Int64),
        ("job_input.memory", Int64),
        ("job_input.runtime", Double),
        ("job_input.output_dir", Text),
        ("job_input.input_files", Array),
        ("job_input.input_files[]", EmbeddedDocument),
        ("job_input.input_files[].file", Text),
        ("job_input.input_files[].crc64nvme", Text),
        ("image", EmbeddedDocument),
        ("image.name", Text),
        ("image.digest", Text),
        ("image.entrypoint", Array),
        ("image.entrypoint[]", Text),
        ("image.tag", Text),
        ("image.refdata_id", Text),
        ("image.default_refdata_mount_point", Text),
        ("image.registered_by", Text),
        ("image.registered_on", DateTime),
        ("input_file_count", Int64),
        ("cleaned", Boolean),
        ("_update_time", DateTime),
        ("_retry", Int32),
        ("htcondor_details", EmbeddedDocument),
        ("htcondor_details.cluster_id", Array),
        ("htcondor_details.cluster_id[]", Int64),
        ("outputs", Array),
        ("outputs[]", EmbeddedDocument),
        ("outputs[].file", Text),
        ("outputs[].crc64nvme", Text),
        ("output_file_count", Int64),
        ("cpu_hours", Double),
        ("cpu_factor", Double),
        ("max_memory", Int64),
        ("logpath", Text),
    ];
    assert_eq!(types_of(&job), table(common));
    let subjobs = database.collection("subjobs").await;
    let subjob = subjobs.find_one(filter).await.unwrap().unwrap();
    assert_eq!(
        types_of(&subjob),
        table([
            ("id", Text),
            ("sub_id", Int64),
            ("state", Text),
            ("transition_times", Array),
            ("transition_times[]", EmbeddedDocument),
            ("transition_times[].state", Text),
            ("transition_times[].time", DateTime),
            ("transition_times[]._retry", Int32),
            ("exit_code", Int64),
            ("outputs", Array),
            ("outputs[]", EmbeddedDocument),
            ("outputs[].file", Text),
            ("outputs[].crc64nvme", Text),
            ("output_file_count", Int64),
            ("admin_error", Null),
            ("traceback", Null),
            ("_update_time", DateTime),
        ])
    );

    // What only a job in error has, and what it does not have.
    let id = insert(&store, 1).await.id;
    store.change_job(id, failed(at(20))).await.unwrap();
    let filter = doc! {"id": id.to_string()};
    let job = types_of(&jobs.find_one(filter).await.unwrap().unwrap());
    assert_eq!(job.get("error"), Some(&Text));
    assert_eq!(job.get("admin_error"), Some(&Text));
    for absent in [
        "traceback",
        "outputs",
        "logpath",
        "cpu_hours",
        "htcondor_details",
    ] {
        assert_eq!(job.get(absent), None, "{absent}");
    }
    store.set_site_active(Site::Kbase, false).await.unwrap();
    let sites = database.collection("sites").await;
    let site = sites.find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(
        types_of(&site),
        table([("site", Text), ("active", Boolean)])
    );
}

#[tokio::test]
async fn images_have_all_fields_the_absent_ones_null() {
    use cts_service::image_store::ImageStore;
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let image = cts_shared::wire::image::Image {
        image: new_job(0).image,
        urls: None,
        usage_notes: None,
    };
    store.insert_image(image).await.unwrap();
    let images = database.collection("images").await;
    let image = images.find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(
        types_of(&image),
        table([
            ("name", Text),
            ("digest", Text),
            ("entrypoint", Array),
            ("entrypoint[]", Text),
            ("tag", Text),
            ("refdata_id", Null),
            ("default_refdata_mount_point", Null),
            ("registered_by", Text),
            ("registered_on", DateTime),
            ("urls", Null),
            ("usage_notes", Null),
        ])
    );
}

#[tokio::test]
async fn reference_data_has_all_fields_the_absent_ones_null() {
    use cts_service::refdata_store::RefdataStore;
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let refdata = crate::refdata::refdata("a", at(10));
    store.insert_refdata(refdata.clone()).await.unwrap();
    let documents = database.collection("refdata").await;
    let stored = async || documents.find_one(doc! {}).await.unwrap().unwrap();
    let common = |absent| {
        table([
            ("id", Text),
            ("file", Text),
            ("crc64nvme", Text),
            ("unpack", Boolean),
            ("registered_by", Text),
            ("registered_on", DateTime),
            ("statuses", Array),
            ("statuses[]", EmbeddedDocument),
            ("statuses[].cluster", Text),
            ("statuses[].state", Text),
            ("statuses[].transition_times", Array),
            ("statuses[].transition_times[]", EmbeddedDocument),
            ("statuses[].transition_times[].state", Text),
            ("statuses[].transition_times[].time", DateTime),
            ("statuses[].cleaned", Boolean),
            ("statuses[].nersc_download_task_id", Null),
            ("statuses[].error", absent),
            ("statuses[].admin_error", absent),
            ("statuses[].traceback", absent),
            ("statuses[]._update_time", DateTime),
        ])
    };
    assert_eq!(types_of(&stored().await), common(Null));
    let failed = crate::refdata::event(RefdataState::Error, at(20));
    let recorded = store.record_refdata(refdata.id, Site::Local, failed);
    recorded.await.unwrap();
    assert_eq!(types_of(&stored().await), common(Text));
}

/// Name, keys, what is unique, sparse and partial.
#[tokio::test]
async fn indexes_are_the_contracts() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    // One that the existing service has made otherwise keeps nobody from starting.
    let jobs = database.collection("jobs").await;
    let other = mongodb::IndexModel::builder()
        .keys(doc! {"cleaned": 1, "state": 1, "_update_time": 1})
        .build();
    jobs.create_index(other).await.unwrap();
    database.open().await;
    let names = jobs.list_index_names().await.unwrap();
    assert!(
        names.iter().any(|name| name == "_cts.unlogged_1_id_1"),
        "those after it are made: {names:?}"
    );
    jobs.drop_indexes().await.unwrap();

    database.open().await;
    let found = async |name: &str| {
        let collection = database.collection(name).await;
        let indexes: Vec<_> = collection
            .list_indexes()
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        let indexes = indexes.into_iter().map(|index| {
            let options = index.options.unwrap();
            let is = (options.unique == Some(true), options.sparse == Some(true));
            let keys: Vec<String> = index
                .keys
                .iter()
                .map(|(key, order)| format!("{key} {}", order.to_string().trim_end_matches(".0")))
                .collect();
            let partial = options.partial_filter_expression;
            (options.name.unwrap(), keys.join(", "), is, partial)
        });
        indexes
            .filter(|index| index.0 != "_id_" && !index.1.contains("_cts"))
            .collect::<Vec<_>>()
    };
    let (plain, unique) = ((false, false), (true, false));
    let row = |keys: &str, is, partial: Option<Document>| {
        (
            keys.replace(", ", "_").replace(' ', "_"),
            keys.to_owned(),
            is,
            partial,
        )
    };
    let ended = doc! {
        "cleaned": false, "state": {"$in": ["complete", "canceled", "error"]},
    };
    let mut all = found("jobs").await;
    for index in &mut all {
        // As a set.
        if let Some(partial) = &mut index.3
            && let Ok(state) = partial.get_document_mut("state")
        {
            let states = state.get_array_mut("$in").unwrap();
            states.sort_by_key(|one| match one.as_str().unwrap() {
                "complete" => 0,
                "canceled" => 1,
                _ => 2,
            });
        }
    }
    let mut expected = [
        row("id 1", unique, None),
        row("_update_time -1", plain, None),
        row("state 1, _update_time -1", plain, None),
        row("job_input.cluster 1, _update_time -1", plain, None),
        row("user 1, _update_time -1", plain, None),
        row("user 1, state 1, _update_time -1", plain, None),
        row("user 1, job_input.cluster 1, _update_time -1", plain, None),
        row(
            "transition_times.time -1",
            plain,
            Some(doc! {"transition_times.notif_sent": false}),
        ),
        row("cleaned 1, state 1, _update_time 1", plain, Some(ended)),
        // An addition of this service.
        row(
            "transition_times.notif_sent 1, id 1",
            plain,
            Some(doc! {"transition_times.notif_sent": false}),
        ),
    ];
    for indexes in [all.as_mut_slice(), &mut expected] {
        indexes.sort_by(|a, b| a.0.cmp(&b.0));
    }
    assert_eq!(all, expected);
    assert_eq!(
        found("subjobs").await,
        [
            row("id 1, sub_id 1", unique, None),
            row(
                "id 1, transition_times.state 1, transition_times._retry 1",
                plain,
                None
            ),
        ]
    );
    let named = |name: &str, keys: &str, is| (name.to_owned(), keys.to_owned(), is, None);
    assert_eq!(
        found("images").await,
        [
            named("UNIQUE_IMAGE_DIGEST_INDEX", "name 1, digest 1", unique),
            named("UNIQUE_IMAGE_TAG_INDEX", "name 1, tag 1", (true, true)),
        ]
    );
    let ended = doc! {
        "statuses.cleaned": false, "statuses.state": {"$in": ["complete", "error"]},
    };
    let mut refdata = found("refdata").await;
    refdata.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        refdata,
        [
            row("file 1", plain, None),
            row("id 1", unique, None),
            row(
                "statuses.cleaned 1, statuses.state 1, statuses._update_time 1",
                plain,
                Some(ended)
            ),
        ]
    );
    assert_eq!(found("sites").await, [row("site 1", unique, None)]);
}

/// Fields, collections and states of sites that this service does not serve: shown where the API has them,
/// and left alone.
#[tokio::test]
async fn what_is_anothers_is_served_and_left_alone() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let jobs = database.collection("jobs").await;
    let subjobs = database.collection("subjobs").await;
    let exit_codes = database.collection("exitcodes").await;
    let id = JobId::new(Uuid::new_v4());
    let filter = doc! {"id": id.to_string()};
    let mut job = old_job(id, &way_to(JobState::DownloadSubmitted));
    let foreign = doc! {
        "nersc_details": {"download_task_id": ["1"], "upload_task_id": [], "log_upload_task_id": []},
        "jaws_details": {"run_id": ["2"]},
        "of_a_later_version": {"a": Bson::Null},
    };
    job.extend(foreign.clone());
    // Ones that the existing service had not from the beginning.
    for newer in ["cleaned", "admin_meta", "input_file_count"] {
        job.remove(newer);
    }
    jobs.insert_one(&job).await.unwrap();
    for number in 0..2 {
        let mut subjob = old_subjob(id, number, &way_to(JobState::DownloadSubmitted));
        subjob.insert("logpath", "buk/l");
        subjobs.insert_one(subjob).await.unwrap();
    }
    let codes = doc! {"id": id.to_string(), "exit_codes": [0, 1]};
    exit_codes.insert_one(&codes).await.unwrap();
    // A site that follows its containers itself.
    let jaws = JobId::new(Uuid::new_v4());
    let mut other = old_job(jaws, &way_to(JobState::Complete));
    other
        .get_document_mut("job_input")
        .unwrap()
        .insert("cluster", "perlmutter-jaws");
    jobs.insert_one(other).await.unwrap();

    let store = database.open().await;
    for container in 0..2 {
        let step = reported(container, JobState::JobSubmitting, at(200));
        store.change_job(id, step).await.unwrap();
    }
    store.change_job(id, failed(at(201))).await.unwrap();
    store.mark_cleaned(id).await.unwrap();
    let stored = jobs.find_one(filter.clone()).await.unwrap().unwrap();
    for (name, value) in &foreign {
        assert_eq!(stored.get(name), Some(value), "{name}");
    }
    for name in ["job_input", "image", "user"] {
        assert_eq!(stored.get(name), job.get(name), "{name}");
    }
    let subjob = subjobs.find_one(filter.clone()).await.unwrap().unwrap();
    assert_eq!(subjob.get_str("logpath").unwrap(), "buk/l");
    let kept = exit_codes.find_one(filter).await.unwrap().unwrap();
    assert_eq!(kept.get_array("exit_codes").unwrap().len(), 2);

    let view = store.job(id).await.unwrap().unwrap().into_admin_job();
    let view = serde_json::to_value(view).unwrap();
    assert_eq!(view["state"], "error");
    assert_eq!(view["cleaned"], true);
    assert_eq!(view["admin_meta"], json!({}));
    assert_eq!(view["image"]["tag"], "1");
    assert_eq!(view["job_input"]["runtime"], "PT1H");
    assert_eq!(view["job_input"]["memory"], json!(10_000_000));

    let view = store.job(jaws).await.unwrap().unwrap().into_admin_job();
    let view = serde_json::to_value(view).unwrap();
    assert_eq!(view["job_input"]["cluster"], "perlmutter-jaws");
    assert_eq!(view["outputs"][0]["file"], "buk/out/a");
    assert_eq!(view["cpu_hours"], json!(0.5));
    assert_eq!(view["htcondor_details"]["cluster_id"], json!([7]));
    assert_eq!(view["transition_times"][0]["time"], "1970-01-01T00:01:40Z");
    let record = store.job_record(jaws).await.unwrap().unwrap();
    assert!(record.containers.is_empty());
    // The other's transitions came with the steps that were taken here.
    store.newest().await.unwrap();
    assert_eq!(store.adopt(at(100_000)).await.unwrap(), 1);
}

/// Whoever repairs documents by hand, or exports and imports them, may leave nulls.
#[tokio::test]
async fn null_is_absent() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let id = JobId::new(Uuid::new_v4());
    let way = way_to(JobState::DownloadSubmitted);
    let mut job = old_job(id, &way);
    for name in [
        "admin_meta",
        "cleaned",
        "input_file_count",
        "htcondor_details",
        "outputs",
        "output_file_count",
        "cpu_hours",
        "cpu_factor",
        "max_memory",
        "error",
        "admin_error",
        "traceback",
        "logpath",
    ] {
        job.insert(name, Bson::Null);
    }
    for transition in job.get_array_mut("transition_times").unwrap() {
        let transition = transition.as_document_mut().unwrap();
        transition.insert("notif_sent", Bson::Null);
    }
    let jobs = database.collection("jobs").await;
    jobs.insert_one(job).await.unwrap();
    let subjobs = database.collection("subjobs").await;
    for number in 0..2 {
        let subjob = old_subjob(id, number, &way);
        subjobs.insert_one(subjob).await.unwrap();
    }
    let store = database.open().await;
    let job = store.job(id).await.unwrap().unwrap();
    assert!(job.summary.notes.admin_meta.is_empty());
    assert!(!job.summary.notes.cleaned);
    assert!(job.summary.transitions.iter().all(|one| !one.notif_sent));
    let step = reported(0, JobState::JobSubmitting, at(200));
    store.change_job(id, step).await.unwrap();
}
