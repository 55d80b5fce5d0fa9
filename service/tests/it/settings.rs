//! Configuration files and environments, good and bad.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use cts_net::tls::Verify;
use cts_service::config::keys::{KEYS, Need};
use cts_service::config::settings::{IdentitySettings, Loaded, RefdataStagingChoice, Settings};
use cts_service::config::{PathPrefix, Sources, explain};
use cts_service::stores::StoreSettings;
use cts_service::telemetry::{LogFormat, LogLevel};

/// The least there must be, without the tables' heads.
const MINIMAL: &str = r#"
[Authentication]
token_file = "/etc/cts/tokens.toml"
[S3]
url = "http://localhost:9000"
access_key = "key"
access_secret = "CANARY-s3"
[Jobs]
container_s3_log_dir = "cts/logs"
"#;

fn read(text: &str, environment: &[(&str, &str)]) -> Loaded {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cts.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
        .collect();
    Loaded::read(&Sources {
        file: Some(path),
        environment,
    })
}

#[track_caller]
fn good(text: &str, environment: &[(&str, &str)]) -> Settings {
    read(text, environment).settings.unwrap()
}

/// The faults, without the directory of the test's own.
fn faults(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let faults = read(text, environment).settings.unwrap_err();
    let texts = faults.0.iter().map(|fault| {
        let text = fault.to_string();
        match (text.find(" (/"), text.find("cts.toml")) {
            (Some(start), Some(end)) => format!("{}{}", &text[..start + 2], &text[end..]),
            _ => text,
        }
    });
    texts.collect()
}

/// [`MINIMAL`] with a line put behind the head of its section.
fn with(section: &str, line: &str) -> String {
    let head = format!("[{section}]\n");
    if MINIMAL.contains(&head) {
        MINIMAL.replace(&head, &format!("{head}{line}\n"))
    } else {
        format!("{MINIMAL}{head}{line}\n")
    }
}

#[test]
fn the_least_there_must_be_with_defaults() {
    let settings = good(MINIMAL, &[]);
    assert_eq!(settings.address.to_string(), "0.0.0.0:5000");
    assert_eq!(settings.log_level, LogLevel::Info);
    assert_eq!(settings.log_format, LogFormat::Json);
    assert_eq!(settings.s3.verify, Verify::Certificates);
    assert!(settings.local_site.is_none());
    assert!(settings.config.start_jobs);
    assert!(settings.config.allowed_paths.is_empty());
    assert!(settings.config.cors_origins.is_empty());
    assert_eq!(settings.config.log_dir.as_str(), "cts/logs/");
    assert!((settings.config.max_cpu_hours - 100.0).abs() < f64::EPSILON);
    assert_eq!(settings.server, cts_net::http_server::Limits::default());
    let limits = cts_service::config::RequestLimits::default();
    assert_eq!(settings.config.request_limits, limits);
}

#[test]
fn the_environment_alone_is_enough() {
    let environment: BTreeMap<String, OsString> = [
        ("CTS_TOKEN_FILE", "/etc/cts/tokens.toml"),
        ("KBCTS_S3_URL", "http://localhost:9000"),
        ("KBCTS_S3_ACCESS_KEY", "key"),
        ("KBCTS_S3_ACCESS_SECRET", "CANARY"),
        ("KBCTS_CONTAINER_S3_LOG_DIR", "cts/logs"),
        ("KBCTS_PORT", "0"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.into()))
    .collect();
    let loaded = Loaded::read(&Sources {
        file: None,
        environment,
    });
    assert_eq!(loaded.settings.unwrap().address.port(), 0);
    assert_eq!(loaded.notes, Vec::<String>::new());
}

#[test]
fn users_are_those_of_kbase_without_a_token_file() {
    let file = MINIMAL.replace(
        "token_file = \"/etc/cts/tokens.toml\"",
        "admin_roles_full = \"a, b\"",
    );
    let settings = good(&file, &[("KBCTS_KBASE_STAFF_ROLE", "STAFF")]);
    let IdentitySettings::Kbase(auth) = settings.identity else {
        panic!("{:?}", settings.identity);
    };
    assert_eq!(auth.url.as_str(), "https://ci.kbase.us/services/auth");
    assert_eq!(auth.admin_roles, ["a", "b"].map(str::to_owned).into());
    assert_eq!(auth.kbase_staff_role, "STAFF");
    assert_eq!(auth.nersc_account_role, "HAS_NERSC_ACCOUNT");
    assert_eq!(auth.external_executor_role, "CTS_EXTERNAL_EXECUTOR");
    assert_eq!(auth.refdata_service_role, "CTS_REFDATA_SERVICE");
}

#[test]
fn variables_override_the_file_and_empty_ones_do_not() {
    let file = with("Jobs", "max_cpu_hours = 7.5");
    let max = |environment: &[(&str, &str)]| good(&file, environment).config.max_cpu_hours;
    assert!((max(&[]) - 7.5).abs() < f64::EPSILON);
    assert!((max(&[("KBCTS_JOB_MAX_CPU_HOURS", " ")]) - 7.5).abs() < f64::EPSILON);
    assert!((max(&[("KBCTS_JOB_MAX_CPU_HOURS", "8")]) - 8.0).abs() < f64::EPSILON);
    // What is overridden need not be right.
    let file = with("Jobs", "max_cpu_hours = \"many\"");
    let settings = good(&file, &[("KBCTS_JOB_MAX_CPU_HOURS", "9")]);
    assert!((settings.config.max_cpu_hours - 9.0).abs() < f64::EPSILON);
}

#[test]
fn origins_are_told() {
    let loaded = read(
        &with("Jobs", "max_cpu_hours = 7"),
        &[("KBCTS_PORT", "80"), ("CTS_LOG_LEVEL", "debug")],
    );
    let row = |key: &str| {
        let setting = loaded.explained.iter().find(|row| row.key == key).unwrap();
        let origin = setting.origin.as_ref().map(ToString::to_string);
        let origin = origin.map(|origin| origin.rsplit('/').next().unwrap().to_owned());
        (setting.value.clone(), origin)
    };
    let some = |value: &str, origin: &str| (Some(value.to_owned()), Some(origin.to_owned()));
    assert_eq!(row("Jobs.max_cpu_hours"), some("7", "cts.toml:9"));
    assert_eq!(row("Server.port"), some("80", "KBCTS_PORT"));
    assert_eq!(row("Log.level"), some("DEBUG", "CTS_LOG_LEVEL"));
    assert_eq!(row("Jobs.clean_age_days"), some("30", "default"));
    assert_eq!(row("S3.access_secret"), some("[redacted]", "cts.toml:7"));
    assert_eq!(row("S3.external_url"), (None, None));
}

#[test]
fn flags_are_true_as_the_contract_says() {
    let insecure = |line: &str| good(&with("S3", line), &[]).s3.verify == Verify::Nothing;
    for (line, expected) in [
        ("allow_insecure = \"true\"", true),
        ("allow_insecure = \" true \"", true),
        ("allow_insecure = true", true),
        ("allow_insecure = \"True\"", false),
        ("allow_insecure = \"yes\"", false),
        ("allow_insecure = false", false),
        ("allow_insecure = \"\"", false),
    ] {
        assert_eq!(insecure(line), expected, "{line}");
    }
    let test_mode = |value: &str| {
        let settings = good(MINIMAL, &[("KBCTS_TEST_MODE", value)]);
        !settings.config.start_jobs
    };
    for (value, expected) in [("true", true), ("TRUE", true), ("1", false), ("", false)] {
        assert_eq!(test_mode(value), expected, "{value}");
    }
    let external = |line: &str| {
        let loaded = read(&with("S3", line), &[]);
        let row = loaded
            .explained
            .into_iter()
            .find(|row| row.key == "S3.verify_external_url");
        row.unwrap().value.unwrap()
    };
    assert_eq!(external("verify_external_url = \"false\""), "false");
    assert_eq!(external("verify_external_url = \"False\""), "true");
    assert_eq!(external("verify_external_url = \"\""), "true");
}

#[test]
fn odd_flags_are_noted() {
    for (line, noted) in [
        ("allow_insecure = \"yes\"", true),
        ("allow_insecure = \"True\"", true),
        ("allow_insecure = \"False\"", false),
        ("allow_insecure = \"true\"", false),
    ] {
        let notes = read(&with("S3", line), &[]).notes;
        assert_eq!(!notes.is_empty(), noted, "{line}: {notes:?}");
    }
}

#[test]
fn the_quirks_of_the_existing_service_do_not_stop_the_start() {
    for line in ["use_S3_external_url = \"\"", "initialdir = \"/x\""] {
        good(&with("HTCondor", line), &[]);
    }
    for line in ["mongo_retrywrites = \"\"", "mongo_db = \"x\""] {
        good(&with("MongoDB", line), &[]);
    }
}

#[test]
fn lists_are_split_sorted_and_each_once() {
    let file = with(
        "Jobs",
        "allowed_s3_paths = \" bbb/x/, aaa,, bbb/x , cts/io \"",
    );
    let paths = good(&file, &[]).config.allowed_paths;
    let paths: Vec<&str> = paths.iter().map(PathPrefix::as_str).collect();
    assert_eq!(paths, ["aaa/", "bbb/x/", "cts/io/"]);
}

#[test]
fn what_has_no_effect_is_told_in_a_line_each() {
    let file = format!("{MINIMAL}[NERSC]\nsfapi_cred_path = 5\n[JAWS]\nurl = \"no url\"\n");
    let lines = read(&file, &[("KBCTS_VERIFY_S3_EXTERNAL_URL", "false")]).without_effect;
    assert_eq!(
        lines,
        [
            "settings that have no effect in this service: NERSC.sfapi_cred_path, JAWS.url",
            "settings that are not used yet by this version: S3.verify_external_url",
        ]
    );
    assert_eq!(read(MINIMAL, &[]).without_effect, Vec::<String>::new());
}

#[test]
fn who_stages_reference_data_is_who_there_are_settings_of() {
    let section = "ExternalExecution";
    let staging = |lines: &str| {
        let condor = good(&with(section, lines), &[]).condor_site.unwrap();
        (condor.refdata, condor.submit.refdata_executor_dir)
    };
    let (nobody, directory) = staging("refdata_host_path = \"/refdata\"");
    assert!(matches!(nobody, RefdataStagingChoice::Nobody));
    assert_eq!(directory, None);

    let by_executors = "refdata_staged_by_executors = \"True\"\nrefdata_host_path = \"/refdata\"";
    let (executors, directory) = staging(by_executors);
    assert!(matches!(executors, RefdataStagingChoice::Executors));
    assert_eq!(directory.as_deref(), Some("/refdata"));
    let elsewhere = format!("{by_executors}\nrefdata_executor_path = \"/nfs/refdata\"");
    assert_eq!(staging(&elsewhere).1.as_deref(), Some("/nfs/refdata"));

    let server = "refserver_url = \"http://r/x\"\nrefserver_token = \"CANARY\"";
    let (by_server, directory) = staging(&format!("{server}\n{by_executors}"));
    assert_eq!(directory, None);
    let RefdataStagingChoice::Server(settings) = by_server else {
        panic!("not the server")
    };
    assert_eq!(settings.url.as_str(), "http://r/x");
    assert!(!format!("{settings:?}").contains("CANARY"));

    for (lines, wanted) in [
        (
            "refserver_url = \"http://r/x\"",
            "ExternalExecution.refserver_token",
        ),
        (
            "refdata_staged_by_executors = \"true\"",
            "ExternalExecution.refdata_host_path",
        ),
    ] {
        let found = faults(&with(section, lines), &[]);
        assert!(found.len() == 1 && found[0].contains(wanted), "{found:?}");
    }
}

#[test]
fn the_store_is_the_one_that_there_are_settings_of() {
    let store = |lines: &str| good(&with("MongoDB", lines), &[]).store;
    assert!(matches!(store("mongo_db = \"x\""), StoreSettings::Sqlite));
    let StoreSettings::Mongo(mongo) = store("mongo_host = \"db1:27017,db2\"\nmongo_db = \"x\"")
    else {
        panic!("not MongoDB")
    };
    assert_eq!(mongo.host, "mongodb://db1:27017,db2");
    assert_eq!(mongo.database, "x");
    assert!(mongo.credentials.is_none() && !mongo.retry_writes);

    let chosen = good(MINIMAL, &[("CTS_STORE", "mongodb")]).store;
    let StoreSettings::Mongo(mongo) = chosen else {
        panic!("not MongoDB")
    };
    assert_eq!(mongo.host, "mongodb://localhost:27017");
    assert_eq!(mongo.database, "cdmtaskservice");
    let file = with("MongoDB", "mongo_host = \"db1\"");
    let chosen = good(&file, &[("CTS_STORE", "sqlite")]).store;
    assert!(matches!(chosen, StoreSettings::Sqlite));
    let wrong = [("CTS_STORE", "oracle"), ("KBCTS_MONGO_HOST", "http://x")];
    let told = faults(MINIMAL, &wrong).join("\n");
    assert!(told.contains("`sqlite` or `mongodb`"), "{told}");
    assert!(told.contains("KBCTS_MONGO_HOST"), "{told}");
}

#[test]
fn the_local_site_and_the_limits() {
    let file = format!(
        "{MINIMAL}[LocalSite]\nenabled = true\ntoken_path = \"executor.token\"\nmax_executors = 3\n\
         [Server]\nhead_timeout_sec = 5\ndrain_timeout_sec = 6\nrequest_timeout_sec = 7\nmax_connections = 8\n\
         max_body_bytes = 9000\nmax_head_bytes = 8000\ncors_origins = \"https://kbase.us, http://localhost:1\"\n\
         bind_address = \"::1\"\n[Log]\nformat = \"text\"\n"
    );
    let settings = good(&file, &[("DOCKER_HOST", "unix:///x")]);
    let site = settings.local_site.unwrap();
    assert_eq!(site.token_path.to_str(), Some("executor.token"));
    assert_eq!(site.max_executors, Some(3));
    assert_eq!(site.docker_host.as_deref(), Some("unix:///x"));
    assert_eq!(site.job_update_timeout_min, 360);
    assert_eq!(settings.server.head_timeout, Duration::from_secs(5));
    assert_eq!(settings.server.drain_timeout, Duration::from_secs(6));
    assert_eq!(settings.server.max_connections, 8);
    assert_eq!(settings.server.max_head_bytes, 8000);
    assert_eq!(
        settings.config.request_limits.timeout,
        Duration::from_secs(7)
    );
    assert_eq!(settings.config.request_limits.max_body_bytes, 9000);
    assert_eq!(
        settings.config.cors_origins,
        ["https://kbase.us", "http://localhost:1"]
    );
    assert_eq!(settings.address.to_string(), "[::1]:5000");
    assert_eq!(settings.log_format, LogFormat::Text);
    assert!(matches!(settings.identity, IdentitySettings::TokenFile(_)));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (section, line, expected) in [
        ("S3", "url = 5", "S3.url"),
        ("S3", "url = \"ftp://x\"", "S3.url"),
        ("S3", "url = \"http://a:CANARY@x\"", "S3.url"),
        ("S3", "url = \"http://x?CANARY\"", "S3.url"),
    ] {
        // In place of the good one.
        let file = MINIMAL.replace("url = \"http://localhost:9000\"", line);
        let faults = faults(&file, &[]);
        assert_eq!(faults.len(), 1, "{section} {line}: {faults:?}");
        assert!(
            faults[0].starts_with(&format!("{expected} (cts.toml:5): ")),
            "{faults:?}"
        );
        assert!(faults[0].contains("http or https URL"), "{faults:?}");
    }
    for (section, line, expected) in [
        ("Jobs", "max_cpu_hours = 0.5", "it must be a number from 1"),
        (
            "Jobs",
            "max_cpu_hours = true",
            "it is a boolean; write the number without quotes",
        ),
        ("Jobs", "max_cpu_hours = nan", "it must be a number from 1"),
        (
            "Jobs",
            "clean_age_days = 1.5",
            "it is a number with a fraction",
        ),
        ("Jobs", "clean_age_days = 0", "it must be an integer from 1"),
        (
            "Jobs",
            "clean_age_days = \"30\"",
            "it is text; write the number without quotes",
        ),
        (
            "Jobs",
            "clean_age_days = 99999999999",
            "it must be an integer from 1",
        ),
        (
            "Jobs",
            "clean_age_days = 0xFFFFFFFFFFFFFFFFFFFF",
            "it must be an integer from 1",
        ),
        ("Jobs", "allowed_s3_paths = \"A\"", "\"A\" is not a bucket"),
        ("Jobs", "allowed_s3_paths = [\"a\"]", "write it in quotes"),
        (
            "Kafka",
            "topic_jobs = \"a_b\"",
            "letters, digits and hyphens",
        ),
        (
            "ExternalExecution",
            "refdata_host_path = \"/\"",
            "at least one element",
        ),
        (
            "ExternalExecution",
            "refdata_host_path = \"a\"",
            "it does not start with /",
        ),
        (
            "ExternalExecution",
            "mount_prefix_override = \"/a\"",
            "OLD:NEW",
        ),
        (
            "MongoDB",
            "mongo_user = \"u\"",
            "MongoDB.mongo_pwd is not; give both",
        ),
        (
            "MongoDB",
            "mongo_pwd = \"CANARY\"",
            "MongoDB.mongo_user is not; give both",
        ),
        (
            "Server",
            "cors_origins = \"https://a.b/\"",
            "without a / at the end",
        ),
        ("Server", "cors_origins = \"*\"", "a list of origins"),
        ("Server", "port = 65536", "0 to 65535"),
        ("Server", "bind_address = \"localhost\"", "an IP address"),
        ("Log", "level = \"LOUD\"", "DEBUG, INFO, WARNING or ERROR"),
        ("Log", "format = \"xml\"", "json or text"),
        ("Service", "mode = \"refdata\"", "refdata-server"),
        ("S3", "access_secret = { CANARY = 1 }", ""),
    ] {
        let faults = faults(&with(section, line), &[]);
        let found = faults.iter().any(|fault| fault.contains(expected));
        assert!(found, "{section} {line}: {faults:?}");
        let place = faults.iter().any(|fault| fault.contains("cts.toml:"));
        assert!(place, "{section} {line}: {faults:?}");
    }
}

#[test]
fn variables_are_named_when_they_are_wrong() {
    for (variable, value, expected) in [
        (
            "KBCTS_PORT",
            "http",
            "Server.port (KBCTS_PORT): \"http\" is not right; ",
        ),
        (
            "CTS_LOG_LEVEL",
            "loud",
            "Log.level (CTS_LOG_LEVEL): \"loud\" is not right; ",
        ),
        (
            "KBCTS_MODE",
            "refdata",
            "Service.mode (KBCTS_MODE): \"refdata\" is not right: ",
        ),
        (
            "KBCTS_S3_ACCESS_SECRET",
            "CANARY\ta",
            "S3.access_secret (KBCTS_S3_ACCESS_SECRET): the value is not",
        ),
    ] {
        let faults = faults(MINIMAL, &[(variable, value)]);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with(expected), "{faults:?}");
    }
    let loaded = Loaded::read(&Sources {
        file: None,
        environment: [("KBCTS_S3_URL".to_owned(), OsString::from_vec(vec![0xff]))].into(),
    });
    let text = loaded.settings.unwrap_err().to_string();
    assert!(
        text.contains("S3.url (KBCTS_S3_URL): it is not UTF-8"),
        "{text}"
    );
}

#[test]
fn all_faults_are_told_at_once() {
    let file = "[S3]\nurl = 5\nacess_key = \"k\"\nallow_insecure = 1\n[Log]\nlevel = \"x\"\n[Sever]\nport = 1\nx = \n";
    let faults = faults(file, &[("KBCTS_PORT", "x")]);
    for expected in [
        "S3.url (cts.toml:2): it is a number; write it in quotes",
        "S3.acess_key (cts.toml:3): there is no such setting; did you mean S3.access_key?",
        "S3.allow_insecure (cts.toml:4): it is a number",
        "S3.access_key: it is not set",
        "S3.access_secret: it is not set",
        "Jobs.container_s3_log_dir: it is not set",
        "Log.level (cts.toml:6): \"x\" is not right",
        "Server.port (KBCTS_PORT): \"x\" is not right",
        "TOML (cts.toml:9): ",
    ] {
        let found = faults.iter().filter(|fault| fault.starts_with(expected));
        assert_eq!(found.count(), 1, "{expected}: {faults:#?}");
    }
}

#[test]
fn unknown_names_come_with_the_nearest_known_one() {
    for (text, expected) in [
        ("[S3]\nmongo_host = 1", "did you mean MongoDB.mongo_host?"),
        (
            "[MongoDb]\nmongo_host = \"\"",
            "[MongoDb] (cts.toml:1): there is no such section; did you mean [MongoDB]?",
        ),
        (
            "[Zebra]\nx = 1",
            "[Zebra] (cts.toml:1): there is no such section; remove it",
        ),
        (
            "access_key = \"CANARY\"",
            "it stands before any section, where there are no settings; did you mean S3.access_key?",
        ),
        (
            "[CTS]\ncts_refdata_token = \"CANARY\"",
            "there is no such section",
        ),
    ] {
        let faults = faults(text, &[]);
        let found = faults.iter().any(|fault| fault.contains(expected));
        assert!(found, "{text}: {faults:?}");
    }
    let notes = read(
        MINIMAL,
        &[("KBCTS_S3_ULR", "x"), ("KBCTS_REFDATA_LOCAL_PATH", "x")],
    )
    .notes;
    assert_eq!(
        notes,
        ["there is no variable KBCTS_S3_ULR; did you mean KBCTS_S3_URL?"]
    );
}

#[test]
fn no_path_lies_in_another() {
    for (allowed, fault) in [
        (
            "cts",
            Some("cts/logs/ lies in cts/ of Jobs.allowed_s3_paths"),
        ),
        (
            "cts/logs/x",
            Some("cts/logs/x/ lies in cts/logs/ of Jobs.container_s3_log_dir"),
        ),
        (
            "aaa, aaa/b",
            Some("aaa/b/ lies in aaa/ of Jobs.allowed_s3_paths"),
        ),
        ("cts/logs", Some("cts/logs/ lies in cts/logs/")),
        ("cts/logsx, cts/log", None),
        ("", None),
    ] {
        let loaded = read(
            &with("Jobs", &format!("allowed_s3_paths = \"{allowed}\"")),
            &[],
        );
        match (loaded.settings, fault) {
            (Ok(_), None) => {}
            (Err(faults), Some(fault)) => {
                assert!(faults.to_string().contains(fault), "{allowed}: {faults}");
            }
            (outcome, _) => panic!("{allowed}: {outcome:?}"),
        }
    }
}

#[test]
fn a_file_that_is_none_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("binary");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    for (path, expected) in [
        (directory.path().join("missing"), "No such file"),
        (directory.path().to_owned(), "it is not a file"),
        (binary, "it is not UTF-8"),
    ] {
        let loaded = Loaded::read(&Sources {
            file: Some(path),
            environment: BTreeMap::new(),
        });
        let text = loaded.settings.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_file_with_secrets_for_all_eyes_is_noted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cts.toml");
    std::fs::write(&path, MINIMAL).unwrap();
    for (mode, noted) in [(0o644, true), (0o640, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let loaded = Loaded::read(&Sources {
            file: Some(path.clone()),
            environment: BTreeMap::new(),
        });
        assert_eq!(
            loaded.notes.len(),
            usize::from(noted),
            "{mode:o}: {:?}",
            loaded.notes
        );
    }
}

/// However a secret is written, right or wrong, nothing shows it.
#[test]
fn secrets_never_show() {
    let broken = [
        "access_secret = CANARY",
        "access_secret = \"CANARY",
        "access_secret = \"CANARY\\q\"",
        "access_secret = 'CANARY\u{1}'",
        "access_secret = \"CANARY\" \"CANARY\"",
        "access_secret = [\"CANARY\"]",
        "access_secret = { a = \"CANARY\" }",
        "access_secret = \"CANARY\"\naccess_secret = \"CANARY2\"",
        "access_secret : CANARY",
        "access_secrt = \"CANARY\"",
        "access_secret = \"\"\"\nCANARY\nCANARY\"\"\"",
    ];
    let good = [
        (with("JAWS", "token = \"CANARY\""), ""),
        (
            with("ExternalExecution", "refserver_token = \"CANARY\""),
            "",
        ),
        (
            with("MongoDB", "mongo_user = \"u\"\nmongo_pwd = \"CANARY\""),
            "",
        ),
        (
            with("MongoDB", "mongo_host = \"mongodb://u:CANARY@h1,h2\""),
            "",
        ),
        (
            with(
                "MongoDB",
                "mongo_host = \"mongodb://h/?tlsCertificateKeyFilePassword=CANARY&retryWrites=false\"",
            ),
            "",
        ),
        (
            with(
                "MongoDB",
                "mongo_host = \"mongodb://h/?a=b&AUTHMECHANISMPROPERTIES=AWS_SESSION_TOKEN:CANARY\"",
            ),
            "",
        ),
        (with("JAWS", "url = \"https://u:CANARY@h\""), ""),
        (
            with("JAWS", "url = \"https://h/?a=b;client_secret=CANARY\""),
            "",
        ),
        (MINIMAL.to_owned(), "KBCTS_JAWS_TOKEN"),
        (MINIMAL.to_owned(), "KBCTS_MONGO_PWD"),
        (MINIMAL.to_owned(), "KBCTS_S3_ACCESS_SECRET"),
    ];
    let secret = "access_secret = \"CANARY-s3\"";
    let files = broken
        .iter()
        .map(|line| (MINIMAL.replace(secret, line), ""))
        .chain(good);
    for (file, variable) in files {
        let loaded = read(&file, &[(variable, "CANARY")]);
        let everything = format!(
            "{}{}{loaded:?}{}",
            explain::text(&loaded),
            explain::json(&loaded),
            match &loaded.settings {
                Ok(_) => String::new(),
                Err(faults) => faults.to_string(),
            }
        );
        assert!(!everything.contains("CANARY"), "{file}\n{everything}");
    }
}

#[test]
fn explanations_are_aligned_and_for_programs() {
    let loaded = read(MINIMAL, &[]);
    let text = explain::text(&loaded);
    let columns: Vec<usize> = text
        .lines()
        .filter(|line| line.starts_with("S3.") && line.contains("default"))
        .map(|line| line.find("default").unwrap())
        .collect();
    assert!(
        columns.len() > 1 && columns.windows(2).all(|two| two[0] == two[1]),
        "{text}"
    );
    let json = explain::json(&loaded);
    assert_eq!(json["settings"].as_array().unwrap().len(), KEYS.len());
    assert_eq!(json["faults"], serde_json::json!([]));
}

#[test]
fn every_default_is_right_and_every_name_there_once() {
    for (index, key) in KEYS.iter().enumerate() {
        if let Need::Default(default) = key.need() {
            key.check(default).unwrap();
        }
        for other in &KEYS[..index] {
            assert_ne!(key.path(), other.path());
            assert_ne!(key.variable(), other.variable());
        }
    }
}

/// The rows of the contract's table: setting, kind, default, variable.
#[test]
fn every_setting_of_the_contract_is_there() {
    let table = include_str!("settings/contract_keys.md");
    let mut rows = 0;
    for row in table.lines() {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (path, default, variable) = (cells[1], cells[3], cells[4]);
        let variable = variable.split('`').nth(1).unwrap();
        let key = KEYS.iter().find(|key| key.path() == path);
        let key = key.unwrap_or_else(|| panic!("{path} is unknown"));
        assert_eq!(key.variable(), variable, "{path}");
        let default = default.trim_matches('`');
        let ignored = key.status() == cts_service::config::keys::Status::Ignored;
        match key.need() {
            Need::Default(ours) => {
                // The blank default of this one stops the existing service.
                let quirk = path == "MongoDB.mongo_retrywrites" && ours == "false";
                assert!(ours == default || quirk, "{path}: {ours}");
            }
            Need::Required | Need::Optional if ignored => {}
            Need::Required | Need::Optional => {
                assert!(
                    default == "empty" || default.starts_with("none"),
                    "{path}: {default}"
                );
            }
        }
        rows += 1;
    }
    assert_eq!(rows, 55);
}
