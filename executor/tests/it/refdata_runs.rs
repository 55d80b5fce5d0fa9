//! Runs whose image needs reference data, on a machine where executors stage it themselves.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cts_executor::container_engine::fake::Script;
use cts_executor::refdata::unpack::remove_tree;
use cts_shared::crc64nvme::Crc64Nvme;
use serde_json::json;

use super::bed::{Bed, Service, job};
use super::refdata::{archive, files, tree};

/// A run, and the directory of the reference data.
struct Machine {
    bed: Bed,
    refdata: tempfile::TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Read-only trees: only root removes them without more ado.
        remove_tree(self.refdata.path()).unwrap();
    }
}

impl Machine {
    async fn new() -> Self {
        let mut document = job(&json!({}), &["buk/a/x"], 1, "buk/out");
        document["image"]["refdata_id"] = "x".into();
        document["image"]["default_refdata_mount_point"] = "/reference".into();
        let service = Service::new(document, BTreeMap::new(), false);
        let body = archive();
        service.set_refdata(json!({
            "id": "x", "registered_by": "admin", "registered_on": "2031-01-01T00:00:00Z",
            "file": "buk/db.tar.gz", "crc64nvme": Crc64Nvme::of(&body).to_string(), "unpack": true,
            "statuses": [],
        }));
        let mut bed = Bed::new(service, Script::default()).await;
        let refdata = tempfile::tempdir().unwrap();
        bed.put("buk/a/x", b"");
        bed.put("buk/db.tar.gz", &body);
        bed.set("CTS_REFDATA_DIR", refdata.path().to_str().unwrap());
        bed.set("CTS_REFDATA_RESERVE_MIB", "0");
        Self { bed, refdata }
    }

    fn tree(&self) -> PathBuf {
        self.refdata.path().join("x")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reference_data_is_staged_once_and_mounted_read_only() {
    let machine = Machine::new().await;
    let bed = &machine.bed;
    assert_eq!(bed.run().await.code(), 0, "{:?}", bed.service.calls());
    assert_eq!(tree(&machine.tree()), files());
    let calls = bed.service.calls();
    let asked = |path: &str| {
        calls
            .iter()
            .filter(|call| call.path.ends_with(path))
            .count()
    };
    assert_eq!(asked("/refdata/id/x"), 1);
    let specs = bed.engine.specs();
    let mounts = &specs[0].mounts;
    let mounted = mounts.iter().find(|mount| mount.container == "/reference");
    let mounted = mounted.unwrap_or_else(|| panic!("{mounts:?}"));
    // As the container's host sees it.
    assert_eq!(mounted.host, Path::new("/refroot/x"));
    assert!(mounted.read_only);

    // The next run finds it, and needs no object.
    let object = cts_executor::object_store::ObjectName::new("buk", "db.tar.gz");
    cts_executor::object_store::ObjectStore::delete(bed.store.as_ref(), &object)
        .await
        .unwrap();
    assert_eq!(bed.run().await.code(), 0);
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reference_data_that_was_changed_is_not_used() {
    let machine = Machine::new().await;
    let bed = &machine.bed;
    assert_eq!(bed.run().await.code(), 0);
    let started = bed.engine.specs().len();
    let file = machine.tree().join("db/VERSION");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&file, "8\n").unwrap();
    assert_eq!(bed.run().await.code(), 1);
    assert_eq!(bed.engine.specs().len(), started, "a container was started");
    let calls = bed.service.calls();
    let report = calls.last().unwrap();
    assert_eq!(report.short(), "error");
    let words = report.body.as_ref().unwrap()["admin_error"]
        .as_str()
        .unwrap();
    assert!(words.contains("[refdata_damaged, blame site"), "{words}");
    assert!(words.contains("db/VERSION"), "{words}");
    bed.assert_nothing_left();
}
