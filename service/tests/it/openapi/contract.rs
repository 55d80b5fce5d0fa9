//! All of the contract's document is in ours, and what ours has beyond it is in `docs/api.md`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::API_PAGE;
use crate::description::DOCUMENT;

/// The contract's document as it was published.
const CONTRACT: &str = include_str!("../contract/openapi.cts.json");

/// Where the contract's document is not true: it says that error bodies always have these members, and
/// they have those that apply (its README says so).
const NOT_TRUE: [&str; 4] = [
    "/schemas/ClientErrorDetail/required/message",
    "/schemas/ClientErrorDetail/required/appcode",
    "/schemas/ClientErrorDetail/required/apperror",
    "/schemas/ClientErrorDetail/required/request_validation_detail",
];

/// Said more exactly than in the contract's document, the service being the same: bounds of the list of
/// input files (the contract's document has them as bounds of a text), media types of answers that are not
/// JSON, and the header that goes with 503.
const SAID_MORE_EXACTLY: [&str; 4] = [
    "/properties/input_files/minItems",
    "/properties/input_files/maxItems",
    "/responses/200/content",
    "/responses/5XX/headers",
];

/// Keywords that are for readers.
const WORDS: [&str; 3] = ["description", "summary", "examples"];

#[derive(Debug, Default)]
struct Difference {
    /// Places of the contract's document that ours has not, or has otherwise.
    missing: BTreeSet<String>,
    /// Places that only ours has.
    added: BTreeSet<String>,
}

fn difference() -> Difference {
    let contract: Value = serde_json::from_str(CONTRACT).unwrap();
    let mut difference = Difference::default();
    difference.compare("/paths", &contract["paths"], &DOCUMENT["paths"]);
    difference.compare("", &contract["components"], &DOCUMENT["components"]);
    difference
}

fn remove(object: &mut Value, name: &str) -> bool {
    object.as_object_mut().unwrap().remove(name).is_some()
}

impl Difference {
    fn compare(&mut self, place: &str, contract: &Value, ours: &Value) {
        match (contract, ours) {
            (Value::Object(contract), Value::Object(ours)) => {
                self.compare_objects(place, contract, ours);
            }
            (Value::Array(contract), Value::Array(ours)) => {
                self.compare_lists(place, contract, ours);
            }
            _ if equal(contract, ours) => {}
            _ => {
                self.missing.insert(place.to_owned());
            }
        }
    }

    fn compare_objects(
        &mut self,
        place: &str,
        contract: &Map<String, Value>,
        ours: &Map<String, Value>,
    ) {
        let are_names = ["/paths", "/schemas", "/properties", "/responses"]
            .iter()
            .any(|container| place.ends_with(container));
        let is_for_readers = |name: &str| !are_names && WORDS.contains(&name);
        for (name, contract) in contract {
            let place = format!("{place}/{name}");
            match ours.get(name) {
                _ if is_for_readers(name) => {}
                Some(ours) => self.compare(&place, contract, ours),
                None => {
                    self.missing.insert(place);
                }
            }
        }
        for name in ours.keys() {
            if !contract.contains_key(name) && !is_for_readers(name) {
                self.added.insert(format!("{place}/{name}"));
            }
        }
    }

    /// Words, and things with names, in any order; others one by one.
    fn compare_lists(&mut self, place: &str, contract: &[Value], ours: &[Value]) {
        let name = |value: &Value| match value {
            Value::String(word) => Some(word.clone()),
            parameter => Some(format!(
                "{}/{}",
                parameter["in"].as_str()?,
                parameter["name"].as_str()?
            )),
        };
        let by_name = |list: &[Value]| -> Option<Map<String, Value>> {
            list.iter()
                .map(|value| Some((name(value)?, value.clone())))
                .collect()
        };
        match (by_name(contract), by_name(ours)) {
            (Some(contract), Some(ours)) => self.compare_objects(place, &contract, &ours),
            _ if contract.len() == ours.len() => {
                for (index, (contract, ours)) in contract.iter().zip(ours).enumerate() {
                    self.compare(&format!("{place}/{index}"), contract, ours);
                }
            }
            _ => {
                self.missing.insert(place.to_owned());
            }
        }
    }
}

/// Numbers by value: 1000 is 1000.0.
fn equal(contract: &Value, ours: &Value) -> bool {
    match (contract.as_f64(), ours.as_f64()) {
        (Some(contract), Some(ours)) => contract == ours,
        _ => contract == ours,
    }
}

#[test]
fn all_of_the_contract_is_described() {
    let missing = difference().missing;
    let not_true = NOT_TRUE.iter().map(|&place| place.to_owned()).collect();
    assert_eq!(missing, not_true);
}

#[test]
fn what_is_added_is_in_the_page() {
    let added = difference().added;
    let (exact, added): (Vec<&String>, Vec<&String>) = added
        .iter()
        .partition(|place| SAID_MORE_EXACTLY.iter().any(|end| place.ends_with(end)));
    for end in SAID_MORE_EXACTLY {
        assert!(
            exact.iter().any(|place| place.ends_with(end)),
            "{end} is in the contract"
        );
    }
    assert!(!added.is_empty());
    let section = API_PAGE
        .split("\n## ")
        .find(|section| section.starts_with("Additions"));
    let section = section.expect("docs/api.md has a section on additions");
    let missing: Vec<&&String> = added
        .iter()
        // Whole schemas are those of added paths.
        .filter(|place| place.starts_with("/paths") || place.matches('/').count() > 2)
        .filter(|place| {
            let name = match place.strip_prefix("/paths/") {
                // A path as a whole.
                Some(path) if !path.contains("/responses/") && !path.contains("/parameters/") => {
                    format!(" {path}`")
                }
                _ => format!("`{}`", place.rsplit('/').next().unwrap()),
            };
            !section.contains(&name)
        })
        .collect();
    assert!(
        missing.is_empty(),
        "not in the page's additions: {missing:#?}"
    );
}

#[test]
fn a_difference_is_noticed() {
    let contract: Value = serde_json::from_str(CONTRACT).unwrap();
    let original = &contract["components"]["schemas"];
    let mut altered = original.clone();
    let parameter = &mut altered["Parameter"];
    remove(&mut parameter["properties"], "type");
    parameter["properties"]["more"] = Value::Null;
    parameter["properties"]["container_num_prefix"]["anyOf"][0]["maxLength"] = 1023.into();
    parameter["properties"]["container_num_suffix"]["anyOf"][1] = Value::Null;
    parameter["properties"]["manifest_file_header"]["anyOf"]
        .as_array_mut()
        .unwrap()
        .pop();
    parameter["required"] = Value::Array(Vec::new());
    altered["JobState"]["enum"][0] = "begun".into();
    let mut difference = Difference::default();
    difference.compare("", original, &altered);
    let places = |places: &[&str]| places.iter().map(|&place| place.to_owned()).collect();
    let expected_missing: BTreeSet<String> = places(&[
        "/JobState/enum/created",
        "/Parameter/properties/container_num_prefix/anyOf/0/maxLength",
        "/Parameter/properties/container_num_suffix/anyOf/1",
        "/Parameter/properties/manifest_file_header/anyOf",
        "/Parameter/properties/type",
        "/Parameter/required/type",
    ]);
    let expected_added: BTreeSet<String> =
        places(&["/JobState/enum/begun", "/Parameter/properties/more"]);
    assert_eq!(difference.missing, expected_missing);
    assert_eq!(difference.added, expected_added);
}
