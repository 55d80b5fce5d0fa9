//! Settings from variables.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

fn complete() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("JOB_ID", " 986E5DF7F7F348D3B38829346DDB6656 "),
        ("CONTAINER_NUMBER", "3"),
        ("SERVICE_ROOT_URL", "https://cts.example.org/services/cts/"),
        ("TOKEN", "tok"),
        ("S3_URL", "http://127.0.0.1:9000"),
        ("S3_ACCESS_KEY", "ak"),
        ("S3_SECRET", "sk"),
        (
            "S3_ERROR_LOG_PATH",
            "/logs/cts/986e5df7-f7f3-48d3-b388-29346ddb6656/",
        ),
        ("REFDATA_HOST_PATH", ""),
        ("JOB_UPDATE_TIMEOUT_MIN", "360"),
    ])
}

fn read(variables: &BTreeMap<&str, &str>) -> Result<RunConfig, Vec<ConfigError>> {
    RunConfig::read(&|name| variables.get(name).map(|value| (*value).to_owned()))
}

fn lines(variables: &BTreeMap<&str, &str>) -> Vec<String> {
    read(variables)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn values_are_stripped_and_normalised() {
    let config = read(&complete()).unwrap();
    assert_eq!(
        config.job.to_string(),
        "986e5df7-f7f3-48d3-b388-29346ddb6656"
    );
    assert_eq!(
        config.service.as_str(),
        "https://cts.example.org/services/cts"
    );
    assert_eq!(
        config.log_path.to_string(),
        "logs/cts/986e5df7-f7f3-48d3-b388-29346ddb6656"
    );
    assert_eq!(config.update_budget, Budget(Duration::from_secs(360 * 60)));
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn each_required_variable_is_named_when_missing() {
    for name in complete().keys() {
        let mut variables = complete();
        variables.remove(name);
        let lines = lines(&variables);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].contains(name) && lines[0].contains("should be"),
            "{lines:?}"
        );
    }
}

#[test]
fn wrong_values_are_named_with_what_they_should_be() {
    for (name, value) in [
        ("JOB_ID", "12"),
        ("CONTAINER_NUMBER", "-1"),
        ("CONTAINER_NUMBER", "one"),
        ("SERVICE_ROOT_URL", ""),
        ("SERVICE_ROOT_URL", "ftp://x"),
        ("SERVICE_ROOT_URL", "cts.example.org"),
        ("TOKEN", " "),
        ("TOKEN_PATH", ""),
        ("S3_URL", "http://"),
        ("S3_ACCESS_KEY", ""),
        ("S3_SECRET", ""),
        ("S3_ERROR_LOG_PATH", "bucketonly"),
        ("S3_INSECURE", "maybe"),
        ("JOB_UPDATE_TIMEOUT_MIN", "0"),
        ("MOUNT_PREFIX_OVERRIDE", "/a"),
        ("REFDATA_HOST_PATH", "refdata"),
        ("MOUNT_PREFIX_OVERRIDE", "a:b"),
        ("MOUNT_PREFIX_OVERRIDE", "/a:/b:/c"),
        ("CTS_LOG_LEVEL", "loud"),
        ("CTS_S3_SIGN_PAYLOAD", "http"),
        ("CTS_TRANSFER_CONCURRENCY", "0"),
    ] {
        let mut variables = complete();
        variables.insert(name, value);
        let lines = lines(&variables);
        assert_eq!(lines.len(), 1, "{name} {value}: {lines:?}");
        assert!(
            lines[0].contains(name) && lines[0].contains("should be"),
            "{lines:?}"
        );
    }
}

#[test]
fn all_faults_are_told_at_once() {
    assert_eq!(lines(&BTreeMap::new()).len(), complete().len());
}

#[test]
fn the_file_wins_even_when_it_is_missing() {
    let mut variables = complete();
    variables.insert("TOKEN_PATH", "/nonexistent/token");
    let lines = lines(&variables);
    assert!(
        lines[0].starts_with("TOKEN_PATH: cannot read the secret file"),
        "{lines:?}"
    );
    // The S3 secret is read when the store is first needed.
    let mut variables = complete();
    variables.insert("S3_SECRET_PATH", "/nonexistent/secret");
    assert!(read(&variables).unwrap().s3.secret.load().is_err());
}

#[test]
fn secrets_are_not_described() {
    let mut variables = complete();
    variables.insert("TOKEN", "canary-token");
    variables.insert("S3_SECRET", "canary-secret");
    let config = read(&variables).unwrap();
    let text = format!("{:?} {config:?}", config.describe());
    assert!(!text.contains("canary"), "{text}");
}

#[test]
fn a_password_in_an_address_is_not_told() {
    let mut variables = complete();
    variables.insert("SERVICE_ROOT_URL", "https://me:canary@cts.example.org");
    let lines = lines(&variables);
    assert!(
        lines[0].contains("https://[redacted]@cts.example.org") && !lines[0].contains("canary"),
        "{lines:?}"
    );
}

#[test]
fn what_should_not_stay_is_warned_of() {
    assert_eq!(read(&complete()).unwrap().warnings(), Vec::<String>::new());
    let mut variables = complete();
    variables.insert("S3_INSECURE", "yes");
    variables.insert("SERVICE_ROOT_URL", "http://cts.example.org");
    let warnings = read(&variables).unwrap().warnings();
    assert!(warnings[0].starts_with("S3_INSECURE") && warnings[1].starts_with("SERVICE_ROOT_URL"));
    variables.insert("SERVICE_ROOT_URL", "http://127.0.0.1:5000");
    assert_eq!(read(&variables).unwrap().warnings().len(), 1);
}

#[test]
fn payload_signing_is_the_stores_choice_unless_given() {
    let mut variables = complete();
    assert_eq!(read(&variables).unwrap().s3.sign_payload, None);
    for (given, expected) in [(" true ", true), ("No", false), ("0", false)] {
        variables.insert("CTS_S3_SIGN_PAYLOAD", given);
        assert_eq!(read(&variables).unwrap().s3.sign_payload, Some(expected));
    }
}

#[test]
fn mount_prefix() {
    let prefix: MountPrefixOverride = "/var/lib/condor:/host/condor".parse().unwrap();
    assert_eq!(
        prefix.on_host(Path::new("/var/lib/condor/x/__input__")),
        Some(PathBuf::from("/host/condor/x/__input__"))
    );
    assert_eq!(prefix.on_host(Path::new("/var/lib/condor2/x")), None);
}
