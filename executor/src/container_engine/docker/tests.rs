use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::super::Mount;
use super::*;

pub(super) fn spec() -> ContainerSpec {
    ContainerSpec {
        name: "cts-test".to_owned(),
        image: "localhost:5000/tool@sha256:aa".to_owned(),
        command: vec!["tool".to_owned(), "a b".to_owned()],
        environment: vec!["A=1".to_owned()],
        mounts: vec![Mount {
            host: PathBuf::from("/host/in"),
            container: "/in".to_owned(),
            read_only: true,
        }],
        cpus: 1.5,
        memory_bytes: 64 << 20,
        pids_limit: 64,
        labels: BTreeMap::from([("job".to_owned(), "j".to_owned())]),
        stop_grace: Duration::from_secs(10),
    }
}
