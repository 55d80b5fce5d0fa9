//! A configuration for people and programs: every value and where it came from.

use serde_json::{Value, json};

use super::keys::Status;
use super::settings::Loaded;

impl Status {
    /// What to tell about it; nothing where there is nothing special.
    #[must_use]
    pub const fn remark(self) -> &'static str {
        match self {
            Self::Used => "",
            Self::NotYet => "not used yet",
            Self::Ignored => "ignored",
        }
    }
}

/// Aligned columns: setting, value, origin, remark.
#[must_use]
pub fn text(loaded: &Loaded) -> String {
    let rows: Vec<[String; 4]> = loaded
        .explained
        .iter()
        .map(|setting| {
            [
                setting.key.clone(),
                setting.value.clone().unwrap_or_else(|| "-".to_owned()),
                setting
                    .origin
                    .as_ref()
                    .map_or_else(|| "not set".to_owned(), ToString::to_string),
                setting.status.remark().to_owned(),
            ]
        })
        .collect();
    let mut widths = [0; 4];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            // One long list must not push everything else off the screen.
            *width = (*width).max(cell.chars().count()).min(48);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for note in loaded.notes.iter().chain(&loaded.without_effect) {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

/// The same for programs: `settings`, `notes` and `faults`.
#[must_use]
pub fn json(loaded: &Loaded) -> Value {
    let settings: Vec<Value> = loaded
        .explained
        .iter()
        .map(|setting| {
            json!({
                "key": setting.key,
                "value": setting.value,
                "origin": setting.origin.as_ref().map(ToString::to_string),
                "status": match setting.status {
                    Status::Used => "used",
                    Status::NotYet => "not used yet",
                    Status::Ignored => "ignored",
                },
            })
        })
        .collect();
    let faults: Vec<String> = match &loaded.settings {
        Ok(_) => Vec::new(),
        Err(faults) => faults.0.iter().map(ToString::to_string).collect(),
    };
    let notes: Vec<&String> = loaded.notes.iter().chain(&loaded.without_effect).collect();
    json!({"settings": settings, "notes": notes, "faults": faults})
}
