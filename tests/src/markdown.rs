//! What the benchmarks print.

use std::fmt;

/// A table in Markdown.
#[derive(Debug, Clone)]
pub struct Table {
    lines: Vec<String>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[&str]) -> Self {
        let rule = vec!["---"; columns.len()];
        let mut table = Self { lines: Vec::new() };
        table.row(columns);
        table.row(&rule);
        table
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[impl AsRef<str>]) {
        let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
        self.lines.push(format!("| {} |", cells.join(" | ")));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
