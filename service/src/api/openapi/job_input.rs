//! What is submitted. Bounds and patterns are those of [`cts_shared::job_input::rules`].

use serde_json::{Value, json};

use cts_shared::job_input::rules::{
    ARGUMENT, CONTAINERS, CPUS, DATA_ID, DEFAULT_INPUT_MOUNT_POINT, DEFAULT_MEMORY_BYTES,
    DEFAULT_OUTPUT_MOUNT_POINT, FLAG, IMAGE, INPUT_FILES, MANIFEST_HEADER, MEMORY_BYTES,
    MEMORY_QUANTITY, MOUNT_POINT, VARIABLE_NAME,
};
use cts_shared::job_input::{InputFilesFormat, ManifestFileFormat, ParameterKind, Runtime};
use cts_shared::site::Site;

use super::jobs::{s3_file, s3_path};
use super::schema::{
    Object, Schema, boolean, duration, integer_from, integer_within, list_of, nullable, one_of,
    reference, string, text, with, with_default, words,
};

pub(super) fn schemas() -> Vec<Schema> {
    vec![
        (
            "JobInput-Input",
            with_files(job_input(
                "A job to run.",
                memory_as_given(),
                "Parameters-Input",
            ))
            .build(),
        ),
        (
            "JobInput-Output",
            with_files(job_input(
                "What was submitted, in its normal form.",
                memory_in_bytes(),
                "Parameters-Output",
            ))
            .build(),
        ),
        (
            "JobInputPreview",
            job_input(
                "What was submitted, in its normal form, without the input files.",
                memory_in_bytes(),
                "Parameters-Output",
            )
            .build(),
        ),
        ("Parameters-Input", parameters("How each container starts.")),
        (
            "Parameters-Output",
            parameters("How each container starts, defaults filled in."),
        ),
        (
            "ParameterWithFlag",
            parameter("Stands for one or more arguments that differ from container to container.")
                .maybe(
                    "flag",
                    nullable(text(&FLAG)),
                    "Written in front; glued to the value if it ends in `=`.",
                )
                .build(),
        ),
        (
            "Parameter",
            parameter("Stands for a value that differs from container to container.").build(),
        ),
        (
            "ParameterType",
            words(
                &ParameterKind::ALL,
                "What it stands for: the container's input files, the place of a file that lists them, \
                 or the container's number. A job has at most one of the first two.",
            ),
        ),
        (
            "InputFilesFormat",
            words(
                &InputFilesFormat::ALL,
                "How several files are written: `a,b,c`; or each an argument of its own, the flag once in \
                 front; or the flag before each file.",
            ),
        ),
        (
            "ManifestFileFormat",
            words(
                &ManifestFileFormat::ALL,
                "What a line of the manifest file holds: a file's place in the container, or its data id.",
            ),
        ),
        (
            "S3FileWithDataID",
            s3_file("An input file.")
                .maybe(
                    "data_id",
                    nullable(text(&DATA_ID)),
                    "Your name for the data in it, for manifest files. For every file or for none.",
                )
                .build(),
        ),
    ]
}

fn job_input(description: &'static str, memory: Value, parameters: &str) -> Object {
    Object::new(description)
        .always("cluster", reference("Cluster"), "Where the containers run.")
        .always(
            "image",
            text(&IMAGE),
            "A registered image, by tag or digest: `ghcr.io/kbase/checkm2:1.0.2`.",
        )
        .always("params", reference(parameters), "How each container starts.")
        .maybe(
            "num_containers",
            with_default(integer_within(&CONTAINERS), 1),
            "Number of containers, at most one for each input file.",
        )
        .maybe(
            "cpus",
            with_default(integer_within(&CPUS), 1),
            "CPUs of each container; the site may have less.",
        )
        .maybe("memory", memory, "Memory of each container.")
        .maybe(
            "runtime",
            with_default(duration(), Runtime::default().to_string()),
            &format!(
                "Longest time a container may run, {} to {}; seconds may have a fraction. When submitting, also seconds as a number, or \
                 a clock time such as `1 day, 01:30:00`.",
                Runtime::MIN,
                Runtime::MAX
            ),
        )
        .maybe(
            "input_roots",
            nullable(list_of(string())),
            "Buckets or paths below which files keep their directories: with the root `cts/io`, \
             `cts/io/a/b.fq` lies at `a/b.fq` in the container. Files below no root lie at the top. An \
             empty text is a root of everything.",
        )
        .always(
            "output_dir",
            s3_path(),
            "Where outputs go: bucket and key prefix. A slash at its end is added.",
        )
        .closed()
}

fn with_files(job_input: Object) -> Object {
    let files = one_of([list_of(string()), list_of(reference("S3FileWithDataID"))]);
    // The names of the bounds are those for texts, as in the contract; checkers of lists pass over them.
    let files = with(files, "maxLength", *INPUT_FILES.end());
    let files = with(files, "minLength", *INPUT_FILES.start());
    let files = with(files, "minItems", *INPUT_FILES.start());
    let files = with(files, "maxItems", *INPUT_FILES.end());
    job_input.always(
        "input_files",
        files,
        "The input files in S3, all as paths or all as objects.",
    )
}

/// Bytes, or a number with a unit.
fn memory_as_given() -> Value {
    bounded(one_of([
        with(string(), "pattern", MEMORY_QUANTITY.as_str()),
        integer_from(0),
    ]))
}

fn memory_in_bytes() -> Value {
    bounded(integer_from(0))
}

/// `ge` and `le` are the contract's names of the bounds, which hold for texts with units, too.
fn bounded(memory: Value) -> Value {
    let memory = with_default(memory, DEFAULT_MEMORY_BYTES);
    let memory = with(memory, "ge", *MEMORY_BYTES.start());
    with(memory, "le", *MEMORY_BYTES.end())
}

fn parameters(description: &'static str) -> Value {
    Object::new(description)
        .maybe(
            "input_mount_point",
            with_default(text(&MOUNT_POINT), DEFAULT_INPUT_MOUNT_POINT),
            "Where the input files are in the container.",
        )
        .maybe(
            "output_mount_point",
            with_default(text(&MOUNT_POINT), DEFAULT_OUTPUT_MOUNT_POINT),
            "Where the container writes its outputs.",
        )
        .maybe(
            "declobber",
            with_default(boolean(), false),
            "Give each container's outputs a directory named by its number, so that containers that \
             write the same names do not overwrite each other.",
        )
        .maybe(
            "refdata_mount_point",
            nullable(text(&MOUNT_POINT)),
            "Where the image's reference data is, instead of the image's default.",
        )
        .maybe(
            "args",
            nullable(list_of(one_of([
                text(&ARGUMENT),
                text(&FLAG),
                reference("ParameterWithFlag"),
            ]))),
            "Arguments after the image's entrypoint. There is no shell: nothing is expanded or quoted. In \
             all patterns `\\w` is a letter or digit of any script, or `_`.",
        )
        .maybe(
            "environment",
            nullable(environment()),
            "Environment variables.",
        )
        .closed()
        .build()
}

fn environment() -> Value {
    let (least, most) = (VARIABLE_NAME.length().start(), VARIABLE_NAME.length().end());
    let value = one_of([text(&ARGUMENT), reference("Parameter")]);
    json!({
        "type": "object",
        "propertyNames": {"minLength": least, "maxLength": most},
        "patternProperties": {VARIABLE_NAME.pattern().unwrap_or_default(): value},
    })
}

fn parameter(description: &'static str) -> Object {
    Object::new(description)
        .always("type", reference("ParameterType"), "What it stands for.")
        .maybe(
            "input_files_format",
            nullable(reference("InputFilesFormat")),
            "With `input_files`: how they are written. In `environment` only `comma_separated_list`.",
        )
        .maybe(
            "manifest_file_format",
            nullable(reference("ManifestFileFormat")),
            "With `manifest_file`: what its lines hold.",
        )
        .maybe(
            "manifest_file_header",
            nullable(text(&MANIFEST_HEADER)),
            "With `manifest_file`: its first line.",
        )
        .maybe(
            "container_num_prefix",
            nullable(text(&ARGUMENT)),
            "With `container_number`: text in front of it.",
        )
        .maybe(
            "container_num_suffix",
            nullable(text(&ARGUMENT)),
            "With `container_number`: text after it.",
        )
        .closed()
}

/// Jobs to begin with.
pub(super) fn examples() -> Value {
    json!({
        "files as arguments": {
            "summary": "SeqKit over two files, one container",
            "value": {
                "cluster": Site::Local,
                "image": "ghcr.io/kbase/seqkit:2.3",
                "params": {
                    "args": [
                        "stats", "--tabular", "--out-file", "/output_files/stats.tsv",
                        {
                            "type": ParameterKind::InputFiles,
                            "input_files_format": InputFilesFormat::SpaceSeparatedList,
                        },
                    ],
                },
                "output_dir": "cts/io/stats",
                "input_files": ["cts/io/reads/a.fq.gz", "cts/io/reads/b.fq.gz"],
            },
        },
        "many containers": {
            "summary": "CheckM2 over genomes in two containers, each with its own output directory",
            "value": {
                "cluster": Site::Kbase,
                "image": "ghcr.io/kbase/checkm2:1.0.2",
                "params": {
                    "declobber": true,
                    "args": [
                        "predict", "--threads", "8", "--output-directory", "/output_files/quality",
                        {
                            "type": ParameterKind::InputFiles,
                            "input_files_format": InputFilesFormat::SpaceSeparatedList,
                            "flag": "--input",
                        },
                    ],
                    "environment": {
                        "SHARD": {
                            "type": ParameterKind::ContainerNumber,
                            "container_num_prefix": "shard_",
                        },
                    },
                },
                "num_containers": 2,
                "cpus": 8,
                "memory": "40GB",
                "runtime": "PT2H",
                "input_roots": ["cts/io/genomes"],
                "output_dir": "cts/io/checkm2",
                "input_files": [
                    {"file": "cts/io/genomes/x/1.fna", "crc64nvme": "6YwqZlRfOM4="},
                    {"file": "cts/io/genomes/y/2.fna"},
                ],
            },
        },
    })
}
