//! The administrators' page names every setting there is.

use cts_executor::refdata_server::SETTINGS;

#[test]
fn every_setting_has_its_row() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/refdata.md");
    let page = std::fs::read_to_string(path).unwrap();
    for setting in SETTINGS {
        let default = setting
            .default
            .map_or_else(|| "none".to_owned(), |default| format!("`{default}`"));
        let row = format!(
            "| `{}.{}` | `{}` | {default} | {} |",
            setting.section,
            setting.key,
            setting.variable,
            setting.meaning()
        );
        assert!(page.lines().any(|line| line == row), "no row\n{row}");
    }
}
