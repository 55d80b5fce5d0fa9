//! Where containers run.

use cts_shared::site::Site;

use super::operation::{Access, Operation};
use super::schema::{
    Object, Schema, boolean, integer, list_of, nullable, reference, string, with_default, words,
};

pub(super) const TAG: &str = "Sites";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::get("/sites", "get_sites")
            .about(
                Access::Anyone,
                "List the compute sites",
                "Every site with what one of its nodes offers, and whether it takes jobs now.",
            )
            .answers(reference("Sites"), "The sites.")
            .tagged(TAG),
    ]
}

pub(super) fn schemas() -> Vec<Schema> {
    vec![
        (
            "Cluster",
            words(
                &Site::ALL,
                "A compute site. `kbase` is KBase's HTCondor pool. `local`, an addition to the contract, \
                 is the machine that the service runs on. The other two are known by name only.",
            ),
        ),
        (
            "Sites",
            Object::new("The compute sites.")
                .always("sites", list_of(reference("Site")), "The sites.")
                .build(),
        ),
        (
            "Site",
            Object::new("A compute site. No member is left out; null is said so.")
                .always("cluster", reference("Cluster"), "Its name.")
                .maybe(
                    "nodes",
                    nullable(integer()),
                    "Number of nodes, null if not known.",
                )
                .always(
                    "cpus_per_node",
                    integer(),
                    "CPUs of a node: the most a container may ask for.",
                )
                .always(
                    "memory_per_node_gb",
                    integer(),
                    "Memory of a node in GB (10^9 bytes): the most a container may ask for.",
                )
                .always(
                    "max_runtime_min",
                    integer(),
                    "Longest runtime of a container in minutes.",
                )
                .maybe(
                    "notes",
                    with_default(list_of(string()), Vec::<String>::new()),
                    "What its users should know.",
                )
                .always(
                    "active",
                    boolean(),
                    "Whether administrators let it take new jobs.",
                )
                .always("available", boolean(), "Whether it can be reached.")
                .maybe(
                    "unavailable_reason",
                    nullable(string()),
                    "Why it is not available, null if it is.",
                )
                .build(),
        ),
    ]
}
