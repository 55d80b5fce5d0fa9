//! The description of this API, an OpenAPI 3.1 document, made by the program from the bounds, patterns
//! and words that its checks use.
//!
//! The names of components and operations are the contract's, so that generated clients stay the
//! same. What keeps it true: the tests compare it with the contract's document, compare its paths and
//! methods with the router, and check every answer of every test against it.
//!
//! | module | what it describes |
//! |---|---|
//! | `general`, `sites`, `images`, `refdata`, `callbacks` | the routes of that name |
//! | `jobs`, `job_input` | jobs as their owners see them; what is submitted |
//! | `admin` | the administrators' routes |
//! | `external_exec` | the executors' routes |
//! | `errors` | the error envelope and its codes |
//! | `operation`, `schema` | the pieces that the others are built from |

use serde_json::{Map, Value, json};

mod admin;
mod callbacks;
mod errors;
mod external_exec;
mod general;
mod images;
mod job_input;
mod jobs;
mod operation;
mod refdata;
mod schema;
mod sites;

/// The document.
///
/// `root_path` is where a reverse proxy serves this API, such as `/services/cts`; clients put it in
/// front of every path.
#[must_use]
pub fn document(root_path: Option<&str>) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "CDM Task Service",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Runs containers over files in S3 at KBase's compute sites.",
            "description": format!("{ABOUT}\n\n{}", errors::ABOUT),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": root_path.filter(|path| !path.is_empty()).unwrap_or("/")}],
        "tags": tags(),
        "paths": paths(),
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                operation::SECURITY_SCHEME: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A KBase token. A service on a laptop (`cts-service dev`) has its \
                        own tokens, in the directory `tokens` below its data directory.",
                },
            },
        },
    })
}

const ABOUT: &str = "\
Submit a container image with a list of input files in S3 and a number of containers. The service \
checks the job, shares the files out over the containers, and has an executor run each of them: it \
fetches the inputs, checks their checksums, runs the container and uploads what it wrote.

A job in four calls: `GET /images` says which images there are, `POST /jobs` submits, \
`GET /jobs/{job_id}/status` follows, `GET /jobs/{job_id}` has the outputs. \
`GET /jobs/{job_id}/log/0/stderr` has what a container said.

An S3 path is the bucket, a slash, and the key: `cts/io/mine/reads.fq.gz`. Times are UTC. Members that \
do not apply are left out of answers, unless a member is said to be null.";

/// The areas, in the order they are shown in.
fn tags() -> Value {
    json!([
        {"name": general::TAG, "description": "The service itself, and who you are to it."},
        {"name": sites::TAG, "description": "Where containers run."},
        {"name": jobs::TAG, "description": "Submit jobs, follow them, read their logs."},
        {"name": images::TAG, "description": "The images that jobs may run."},
        {"name": refdata::TAG, "description": "The reference data that images may need."},
        {"name": admin::TAG, "description": "For administrators."},
        {"name": external_exec::TAG, "description": "For the executors that run the containers."},
        {"name": callbacks::TAG, "description": "For transfers at sites that this service does not serve."},
    ])
}

fn paths() -> Map<String, Value> {
    let mut paths = Map::new();
    let areas = [
        general::operations(),
        sites::operations(),
        jobs::operations(),
        images::operations(),
        refdata::operations(),
        admin::operations(),
        external_exec::operations(),
        callbacks::operations(),
    ];
    for operation in areas.into_iter().flatten() {
        let (path, method, described) = operation.into_parts();
        if let Value::Object(methods) = paths.entry(path).or_insert_with(|| json!({})) {
            methods.insert(method.to_owned(), described);
        }
    }
    paths
}

fn schemas() -> Map<String, Value> {
    [
        general::schemas(),
        sites::schemas(),
        jobs::schemas(),
        job_input::schemas(),
        images::schemas(),
        refdata::schemas(),
        admin::schemas(),
        external_exec::schemas(),
        errors::schemas(),
    ]
    .into_iter()
    .flatten()
    .map(|(name, schema)| (name.to_owned(), schema))
    .collect()
}
