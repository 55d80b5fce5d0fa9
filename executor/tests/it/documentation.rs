//! The operators' page names every setting, exit status and failure there is.

use cts_executor::exit::ExitStatus;
use cts_executor::variables::VARIABLES;
use cts_shared::failure::FailureCode;

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/executor.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_variable_has_its_row() {
    let page = page();
    for variable in VARIABLES {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", variable.name)));
        let row = row.unwrap_or_else(|| panic!("{} has no row", variable.name));
        assert!(
            row.contains(variable.meaning),
            "{row}\n{}",
            variable.meaning
        );
        let flag = variable
            .flag()
            .map_or_else(|| "none".to_owned(), |flag| format!("`--{flag}`"));
        assert!(row.contains(&flag), "{row} does not name {flag}");
    }
}

#[test]
fn every_variable_of_htcondor_has_its_row() {
    let page = page();
    for name in cts_executor::condor::VARIABLES {
        assert!(page.contains(&format!("| `{name}` |")), "{name} has no row");
    }
}

#[test]
fn every_failure_and_exit_status_has_its_row() {
    let page = page();
    for code in FailureCode::ALL {
        assert!(page.contains(&format!("| `{code}` |")), "{code} has no row");
    }
    for status in [
        ExitStatus::Done,
        ExitStatus::Failed,
        ExitStatus::ServiceUnavailable,
        ExitStatus::NoPermission,
        ExitStatus::Configuration,
    ] {
        let code = status.code();
        assert!(page.contains(&format!("| {code} |")), "{code} has no row");
    }
}
