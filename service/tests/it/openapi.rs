//! The API's description: it has all of the contract's, it is what the router serves, and the page in
//! `docs/api.md` has all of it.

mod contract;

use std::collections::BTreeSet;

use serde_json::Value;

use cts_service::api::openapi;
use cts_service::router;
use cts_shared::job_input::JobInput;

use crate::description::{DOCUMENT, DOCUMENTATION, members, takes_rest};
use crate::test_app::TestApp;

const API_PAGE: &str = include_str!("../../../docs/api.md");

/// `GET /path`
fn operations() -> BTreeSet<String> {
    members(&DOCUMENT["paths"])
        .flat_map(|(path, methods)| {
            members(methods).map(move |(method, _)| format!("{} {path}", method.to_uppercase()))
        })
        .collect()
}

#[test]
fn every_path_that_is_served_is_described() {
    let described: BTreeSet<String> = members(&DOCUMENT["paths"])
        .map(|(path, methods)| match path.rsplit_once('{') {
            Some((before, _)) if takes_rest(methods) => format!("{before}{{*rest}}"),
            _ => path.clone(),
        })
        .collect();
    let served: BTreeSet<String> = router::paths().into_iter().collect();
    let undescribed: Vec<&String> = served
        .difference(&described)
        .filter(|path| !DOCUMENTATION.contains(&path.as_str()))
        .collect();
    assert!(undescribed.is_empty(), "{undescribed:?}");
}

#[tokio::test]
async fn every_method_that_is_described_is_served_and_no_other() {
    let app = TestApp::new();
    let mut served = BTreeSet::new();
    for (path, _) in members(&DOCUMENT["paths"]) {
        // No path has this method; the answer says which ones it has.
        let answer = app
            .call("", "PATCH", &with_values(path), None)
            .await
            .expect(405);
        let methods = answer.headers["allow"].to_str().unwrap();
        let methods = methods.split(',').map(str::trim);
        served.extend(methods.map(|method| format!("{method} {}", route(path))));
    }
    let described: BTreeSet<String> = operations()
        .iter()
        .filter_map(|operation| operation.split_once(' '))
        .map(|(method, path)| format!("{method} {}", route(path)))
        .collect();
    assert_eq!(described, served);
}

/// The paths below `/admin/refdata/` are one route, whose methods each take some.
fn route(path: &str) -> &str {
    if path.starts_with("/admin/refdata/") {
        "/admin/refdata/{*rest}"
    } else {
        path
    }
}

#[tokio::test]
async fn each_path_of_a_route_of_many_has_its_methods() {
    let app = TestApp::new();
    for (path, methods) in [
        ("/admin/refdata/x", &["GET", "POST"][..]),
        ("/admin/refdata/x/local/recover", &["PUT", "POST"]),
        ("/admin/refdata/x/local/clean", &["DELETE", "POST"]),
        ("/admin/refdata/x/local", &["POST"]),
        ("/admin/refdata/x/local/clean/", &["POST"]),
        ("/admin/refdata/x/local/recover/more", &["POST"]),
    ] {
        for method in ["GET", "PUT", "POST", "DELETE"] {
            let status = app.call("", method, path, None).await.status.as_u16();
            let expected = if methods.contains(&method) { 401 } else { 405 };
            assert_eq!(status, expected, "{method} {path}");
        }
    }
}

fn with_values(path: &str) -> String {
    path.replace("{container_num}", "0")
        .replace("{new_state}", "error")
        .replace("{attempt}", "1")
        .replace("{site}", "local")
        .replace("{job_id}", "x")
        .replace("{image_id}", "x")
        .replace("{refdata_id}", "x")
        .replace("{cluster}", "local")
        .replace("{s3_path}", "x")
        .replace("{refdata_s3_path}", "x")
}

#[test]
fn every_operation_explains_itself() {
    let mut ids = BTreeSet::new();
    for (path, methods) in members(&DOCUMENT["paths"]) {
        for (method, operation) in members(methods) {
            let place = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].to_string()), "{place}");
            for text in ["summary", "description"] {
                assert!(
                    operation[text]
                        .as_str()
                        .is_some_and(|text| !text.is_empty()),
                    "{place}"
                );
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{place} {parameter}");
            }
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    references(&DOCUMENT, &mut found);
    let components: BTreeSet<String> = members(&DOCUMENT["components"]["schemas"])
        .map(|(name, _)| format!("#/components/schemas/{name}"))
        .collect();
    let found: BTreeSet<String> = found.into_iter().map(str::to_owned).collect();
    assert_eq!(
        components, found,
        "components are referred to, and references are components"
    );
}

#[test]
fn the_examples_of_a_submission_are_valid() {
    let content = &DOCUMENT["paths"]["/jobs"]["post"]["requestBody"]["content"]["application/json"];
    let mut schema = content["schema"].clone();
    schema["components"] = DOCUMENT["components"].clone();
    let validator = jsonschema::options().build(&schema).unwrap();
    let examples: Vec<_> = members(&content["examples"]).collect();
    assert!(!examples.is_empty());
    for (name, example) in examples {
        JobInput::from_json(&example["value"])
            .unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
        if let Err(fault) = validator.validate(&example["value"]) {
            panic!("{name}: {fault}");
        }
    }
}

#[test]
fn the_servers_are_below_the_root_path() {
    for (root_path, url) in [
        (None, "/"),
        (Some(""), "/"),
        (Some("/services/cts"), "/services/cts"),
    ] {
        assert_eq!(openapi::document(root_path)["servers"][0]["url"], url);
    }
}

#[test]
fn every_operation_has_a_row_in_the_page() {
    let rows: BTreeSet<&str> = API_PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|cell| {
            cell.split_once(' ')
                .is_some_and(|(_, path)| path.starts_with('/'))
        })
        .collect();
    let operations = operations();
    let documentation = DOCUMENTATION.map(|path| format!("GET {path}"));
    let missing: Vec<_> = operations
        .iter()
        .filter(|&operation| !rows.contains(operation.as_str()))
        .collect();
    assert!(missing.is_empty(), "not in docs/api.md: {missing:#?}");
    let unknown: Vec<_> = rows
        .into_iter()
        .filter(|&row| !operations.contains(row) && !documentation.iter().any(|known| known == row))
        .collect();
    assert!(unknown.is_empty(), "in docs/api.md only: {unknown:#?}");
}
