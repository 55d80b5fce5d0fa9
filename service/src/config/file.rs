//! The TOML file: values with their lines. Its text is never quoted in messages, for it holds secrets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Origin};
use super::keys::KEYS;
use super::suggest::nearest_key;

/// A larger file is no configuration.
const MAX_BYTES: u64 = 1024 * 1024;

/// A value as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scalar {
    Text(String),
    Flag(bool),
    Integer(String),
    Float(String),
    /// An array, table or time, which no setting is.
    Other(&'static str),
}

/// A value and its line.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) value: Scalar,
    pub(super) line: usize,
}

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) path: PathBuf,
    /// By section and name; only those that exist.
    pub(super) entries: BTreeMap<(String, String), Entry>,
    /// What is wrong with the file as a whole, and unknown names.
    pub(super) faults: Vec<Fault>,
}

impl File {
    /// Reads a file. What is wrong with it is in [`File::faults`].
    pub(super) fn read(path: &Path) -> Self {
        match read_text(path) {
            Ok(text) => Self::parse(path, &text),
            Err(problem) => Self {
                path: path.to_owned(),
                faults: vec![Fault {
                    subject: format!("configuration file {}", path.display()),
                    origin: None,
                    problem,
                }],
                ..Self::default()
            },
        }
    }

    fn parse(path: &Path, text: &str) -> Self {
        let mut file = Self {
            path: path.to_owned(),
            ..Self::default()
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map(|span| line(text, span.start));
            file.faults.push(Fault {
                subject: "TOML".to_owned(),
                origin: line.map(|line| file.origin(line)),
                problem: error.message().to_owned(),
            });
        }
        for (section, value) in table.get_ref() {
            let at = line(text, section.span().start);
            let section = section.get_ref().as_ref();
            match value.get_ref() {
                DeValue::Table(table) if is_section(section) => {
                    file.add_section(text, section, table);
                }
                // What is beyond repair has been reported; its leftovers are not worth a word.
                _ if !errors.is_empty() => {}
                DeValue::Table(_) => file.unknown(at, section, None),
                _ => file.unknown(at, "", Some(section)),
            }
        }
        file
    }

    fn add_section(&mut self, text: &str, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let at = line(text, name.span().start);
            let name = name.get_ref().as_ref();
            if KEYS
                .iter()
                .any(|key| key.section() == section && key.name() == name)
            {
                let entry = Entry {
                    value: scalar(value.get_ref()),
                    line: at,
                };
                self.entries
                    .insert((section.to_owned(), name.to_owned()), entry);
            } else {
                self.unknown(at, section, Some(name));
            }
        }
    }

    fn unknown(&mut self, line: usize, section: &str, name: Option<&str>) {
        let (subject, what) = match (section, name) {
            (section, None) => (format!("[{section}]"), "there is no such section"),
            ("", Some(name)) => (
                name.to_owned(),
                "it stands before any section, where there are no settings",
            ),
            (section, Some(name)) => (format!("{section}.{name}"), "there is no such setting"),
        };
        let suggestion = match (name, nearest_key(section, name)) {
            (_, None) => "remove it; docs/service.md lists all settings".to_owned(),
            (None, Some(key)) => format!("did you mean [{}]?", key.section()),
            (Some(_), Some(key)) => format!("did you mean {}?", key.path()),
        };
        let origin = self.origin(line);
        self.faults.push(Fault {
            subject,
            origin: Some(origin),
            problem: format!("{what}; {suggestion}"),
        });
    }

    /// A line of this file.
    pub(super) fn origin(&self, line: usize) -> Origin {
        Origin::File {
            path: self.path.clone(),
            line,
        }
    }
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.section() == name)
}

fn read_text(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| {
        format!("it cannot be read: {error}; correct --config or KB_DEPLOYMENT_CONFIG")
    };
    let metadata = path.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err("it is not a file; correct --config or KB_DEPLOYMENT_CONFIG".to_owned());
    }
    if metadata.len() > MAX_BYTES {
        return Err(format!(
            "it is larger than {MAX_BYTES} bytes; give a configuration"
        ));
    }
    let bytes = std::fs::read(path).map_err(cannot)?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8; save it as such".to_owned())
}

fn line(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn scalar(value: &DeValue<'_>) -> Scalar {
    match value {
        DeValue::String(text) => Scalar::Text(text.trim().to_owned()),
        DeValue::Boolean(flag) => Scalar::Flag(*flag),
        DeValue::Integer(integer) => {
            match i64::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(number) => Scalar::Integer(number.to_string()),
                // Out of range for any setting: said where it is parsed.
                Err(_) => Scalar::Integer(integer.to_string()),
            }
        }
        DeValue::Float(float) => Scalar::Float(float.as_str().to_owned()),
        other => Scalar::Other(other.type_str()),
    }
}
