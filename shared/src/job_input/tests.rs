//! What holds for every document, and what the vectors do not show.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn minimal() -> Value {
    json!({
        "cluster": "kbase",
        "image": "im",
        "params": {},
        "input_files": ["buk/f1"],
        "output_dir": "buk/out",
    })
}

/// The minimal submission with one member set.
fn with(member: &str, value: Value) -> Value {
    let mut body = minimal();
    body[member] = value;
    body
}

/// Place and kind of each fault.
fn faults(body: &Value) -> Vec<(String, String)> {
    let details = JobInput::from_json(body).expect_err("the body has a fault");
    details
        .into_iter()
        .map(|d| (Value::from(d.loc).to_string(), d.kind))
        .collect()
}

fn one_fault(loc: &str, kind: &str) -> Vec<(String, String)> {
    vec![(loc.to_owned(), kind.to_owned())]
}

#[test]
fn refuses_paths_that_lead_elsewhere_with_a_code_of_their_own() {
    for path in ["buk/../a", "buk/a/./b", "buk/..", "buk/a/"] {
        assert_eq!(
            faults(&with("input_files", json!(["buk/f1", path]))),
            one_fault(r#"["body","input_files",1]"#, ILLEGAL_S3_PATH)
        );
        assert_eq!(
            faults(&with("input_files", json!([{"file": path}]))),
            one_fault(r#"["body","input_files",0,"file"]"#, ILLEGAL_S3_PATH)
        );
    }
    assert_eq!(
        faults(&with("output_dir", json!("buk/a/../b/"))),
        one_fault(r#"["body","output_dir"]"#, ILLEGAL_S3_PATH)
    );
}

#[test]
fn requires_formats_in_arguments() {
    for kind in ["input_files", "manifest_file"] {
        let body = with(
            "params",
            json!({"args": ["a", {"type": kind, "flag": "-i"}]}),
        );
        let details = JobInput::from_json(&body).expect_err("the format is missing");
        let detail = details
            .iter()
            .find(|detail| detail.kind == "value_error")
            .expect("one rule");
        assert_eq!(
            detail.loc[..4],
            [json!("body"), json!("params"), json!("args"), json!(1)]
        );
        assert!(
            detail.msg.contains(&format!("{kind}_format")),
            "{}",
            detail.msg
        );
    }
}

#[test]
fn keeps_a_longest_output_directory_when_checked_again() {
    let body = with("output_dir", json!(format!("buk/{}", "a".repeat(1024))));
    let once = JobInput::from_json(&body).expect("the key has 1024 bytes");
    let again = JobInput::from_json(&serde_json::to_value(&once).unwrap());
    assert_eq!(again, Ok(once));
}

#[test]
fn says_what_was_given_and_which_bound_it_breaks() {
    let details = JobInput::from_json(&with("cpus", json!(0))).expect_err("0 CPUs");
    assert_eq!(
        serde_json::to_value(details).unwrap(),
        json!([{
            "type": "greater_than_equal",
            "loc": ["body", "cpus"],
            "msg": "give 1 or more",
            "input": 0,
            "ctx": {"ge": 1},
        }])
    );
}

#[test]
fn lists_a_bounded_number_of_faults() {
    let details = JobInput::from_json(&with("input_files", json!(vec![5; 10_000])))
        .expect_err("numbers are no files");
    assert_eq!(details.len(), 1001);
    assert_eq!(
        details[1000].msg,
        "19000 more faults are not listed; correct these first"
    );
}

#[test]
fn counts_at_most_ten_thousand_files() {
    let files = |count: usize| with("input_files", json!(vec!["buk/f"; count]));
    assert!(JobInput::from_json(&files(10_000)).is_ok());
    assert_eq!(
        faults(&files(10_001)),
        one_fault(r#"["body","input_files"]"#, "too_long")
    );
}

#[test]
fn forms_without_a_tag_are_told_apart() {
    for (args, literal) in [
        (json!(["-i"]), true),
        (json!([{"type": "container_number"}]), false),
    ] {
        let args: Vec<Argument> = serde_json::from_value(args).unwrap();
        assert_eq!(matches!(args[0], Argument::Literal(_)), literal);
    }
    let paths: InputFiles = serde_json::from_value(json!(["buk/a"])).unwrap();
    assert_eq!(paths, InputFiles::Paths(vec!["buk/a".to_owned()]));
    let files: InputFiles = serde_json::from_value(json!([{"file": "buk/a"}])).unwrap();
    assert_eq!(files.to_files(), paths.to_files());
}

/// Any JSON document of moderate size.
fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((word(), inner), 0..4).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// Texts that mean something somewhere in a submission.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(vec![
            "cluster",
            "image",
            "params",
            "num_containers",
            "cpus",
            "memory",
            "runtime",
            "input_roots",
            "output_dir",
            "input_files",
            "args",
            "environment",
            "type",
            "flag",
            "input_files_format",
            "manifest_file_format",
            "manifest_file_header",
            "file",
            "data_id",
            "crc64nvme",
            "manifest_file",
            "container_number",
            "files",
            "kbase",
            "comma_separated_list",
            "repeat_parameter",
            "declobber",
            "A",
            "1",
            "true",
            "",
        ])
        .prop_map(str::to_owned),
        "[ \u{85}]?[a-z-]{2,4}[ \t]?/[a-z./ ]{0,6}",
        "-{0,3}[a-z.]{0,4}={0,2}",
        "[0-9_.]{1,6} ?[kmgKMGi]{0,2}(b|B|bit)?",
        "P?[0-9]{0,2}[DT]?[0-9.,]{0,4}[HMS:]?[0-9]{0,2}",
    ]
}

/// Submissions that are well-formed but for some members.
fn nearly_valid() -> impl Strategy<Value = Value> {
    vec((word(), any_json()), 0..4).prop_map(|members| {
        let mut body = minimal();
        for (name, value) in members {
            body[name] = value;
        }
        body
    })
}

/// Submissions that are accepted more often than not, in forms that are normalised.
fn mostly_valid() -> impl Strategy<Value = Value> {
    (
        vec("[ \t]?[a-z]{3,5} ?/[a-z. ]{1,3}(/[a-z]{1,3})?", 1..6),
        vec("[ ]{0,2}|[a-z]{3}(/[a-z ]{0,3}/?)?", 0..4),
        "[a-z]{3}/[a-z/]{1,6}",
        "[1-9][0-9]{0,2}(\\.[0-9]{1,3})? ?[mMgG][iI]?[bB]",
        "(P[0-6]DT)?[0-9]{2}:[0-5][0-9](:[0-5][0-9](\\.[0-9]{1,9})?)?|PT[0-9]{1,4}(\\.[0-9]{1,9})?M",
    )
        .prop_map(|(files, roots, output_dir, memory, runtime)| {
            let mut body = minimal();
            body["num_containers"] = json!(files.len().to_string());
            body["input_files"] = json!(files);
            body["input_roots"] = json!(roots);
            body["output_dir"] = json!(output_dir);
            body["memory"] = json!(memory);
            body["runtime"] = json!(runtime);
            body
        })
}

proptest! {
    #[test]
    fn any_document_is_answered(body in prop_oneof![any_json(), nearly_valid()]) {
        if let Err(details) = JobInput::from_json(&body) {
            prop_assert!(!details.is_empty());
            prop_assert!(details.iter().all(|detail| detail.loc[0] == "body"));
        }
    }

    #[test]
    fn normalising_twice_is_the_same_as_once(body in prop_oneof![nearly_valid(), mostly_valid()]) {
        if let Ok(once) = JobInput::from_json(&body) {
            let again = JobInput::from_json(&serde_json::to_value(&once).unwrap());
            prop_assert_eq!(again, Ok(once));
        }
    }
}
