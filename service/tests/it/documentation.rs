//! The operators' page names every setting and exit status there is, as the code has them.

use cts_service::config::keys::{AnyKey, KEYS, Need};
use cts_service::exit::ExitStatus;

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/service.md");
    std::fs::read_to_string(path).unwrap()
}

/// A setting's row, to be copied into the page.
fn row(key: &dyn AnyKey) -> String {
    let default = match key.need() {
        Need::Required => "needed".to_owned(),
        Need::Optional => "none".to_owned(),
        Need::Default(text) => format!("`{text}`"),
    };
    let remark = match key.status().remark() {
        "" => String::new(),
        remark => format!(" ({remark})"),
    };
    format!(
        "| `{}` | {} | {default} | `{}` | {}{remark} |",
        key.path(),
        key.expected(),
        key.variable(),
        key.meaning(),
    )
}

#[test]
fn every_setting_has_its_row() {
    let page = page();
    let rows: Vec<&str> = page.lines().collect();
    let wanted: Vec<String> = KEYS.iter().map(|key| row(*key)).collect();
    let missing: Vec<&String> = wanted
        .iter()
        .filter(|row| !rows.contains(&row.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/service.md lacks these rows:\n{}",
        missing
            .iter()
            .map(|row| format!("{row}\n"))
            .collect::<String>()
    );
    let settings = rows.iter().filter(|row| {
        row.starts_with("| `") && row.contains("` | ") && row.matches('|').count() == 6
    });
    assert_eq!(settings.count(), KEYS.len(), "a row without a setting");
}

#[test]
fn every_exit_status_has_its_row() {
    let page = page();
    for status in [
        ExitStatus::Done,
        ExitStatus::Failed,
        ExitStatus::TryAgain,
        ExitStatus::Configuration,
    ] {
        let code = status.code();
        assert!(page.contains(&format!("| {code} |")), "{code} has no row");
    }
}
