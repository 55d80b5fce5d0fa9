//! Telling the person at the terminal what is going on.

use std::fmt;
use std::io::Write;

/// One line on standard error; standard output belongs to results.
pub fn say(line: fmt::Arguments<'_>) {
    // A closed terminal must not stop the testbed half-way.
    let _ = writeln!(std::io::stderr().lock(), "testbed: {line}");
}
