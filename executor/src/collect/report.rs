//! The report of names that cannot be uploaded: all of them counted, the first ones listed.

use std::collections::BTreeMap;
use std::fmt;

/// Names listed at most; the error goes into a job's record.
const MAX_LISTED: usize = 50;

/// Longest name shown, in characters.
const MAX_NAME_CHARS: usize = 200;

/// Output names that cannot be uploaded, with the reason of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnusableOutputs {
    /// The first in order of their bytes, so that the same tree gives the same report.
    listed: BTreeMap<Vec<u8>, String>,
    count: u64,
}

impl UnusableOutputs {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Names, escaped, and reasons of those that are listed.
    pub fn listed(&self) -> impl Iterator<Item = (String, &str)> {
        self.listed
            .iter()
            .map(|(path, reason)| (escaped(path), reason.as_str()))
    }

    pub(super) fn add(&mut self, path: &[u8], reason: impl Into<String>) {
        self.count += 1;
        self.listed.insert(path.to_owned(), reason.into());
        if self.listed.len() > MAX_LISTED {
            self.listed.pop_last();
        }
    }
}

impl std::error::Error for UnusableOutputs {}

impl fmt::Display for UnusableOutputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (noun, them) = if self.count == 1 {
            ("output", "it")
        } else {
            ("outputs", "them")
        };
        write!(
            f,
            "{} {noun} cannot be uploaded, so none was; let the tool rename or remove {them}: ",
            self.count
        )?;
        for (n, (path, reason)) in self.listed().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}\"{path}\" {reason}")?;
        }
        match self.count.saturating_sub(self.listed.len() as u64) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// A name on one line in plain text, whatever bytes it has.
fn escaped(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        text.extend(chunk.valid().chars().flat_map(char::escape_debug));
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    match text.char_indices().nth(MAX_NAME_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_whatever_the_names() {
        let mut report = UnusableOutputs::default();
        report.add(b"a\nb", "has a control character");
        assert_eq!(
            report.to_string(),
            "1 output cannot be uploaded, so none was; let the tool rename or remove it: \
             \"a\\nb\" has a control character"
        );
        report.add(b"\xff\x1b[0m\xc3\xbc", "is not UTF-8");
        assert_eq!(
            report.to_string(),
            "2 outputs cannot be uploaded, so none was; let the tool rename or remove them: \
             \"a\\nb\" has a control character; \"\\xff\\u{1b}[0mü\" is not UTF-8"
        );
    }

    #[test]
    fn the_list_is_bounded_and_the_count_is_not() {
        let mut report = UnusableOutputs::default();
        for n in (0..10_000).rev() {
            report.add(format!("{n:05}").as_bytes(), "is a FIFO");
        }
        let text = report.to_string();
        assert!(text.starts_with("10000 outputs"));
        assert!(text.contains("\"00000\" is a FIFO"));
        assert!(text.ends_with("\"00049\" is a FIFO; and 9950 more"));
        let mut report = UnusableOutputs::default();
        report.add(&[b'x'; 10_000], "is long");
        assert!(report.to_string().len() < 400);
    }
}
