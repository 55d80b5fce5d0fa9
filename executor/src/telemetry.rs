//! Logs go to standard error: text for people, one JSON object a line for machines.

use std::io::{self, IsTerminal, Write};
use std::str::FromStr;

use indicatif::MultiProgress;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

/// The least level that is logged, by Python's names, which operators of the existing system use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevel(LevelFilter);

impl LogLevel {
    /// Parses a level for the command line.
    ///
    /// # Errors
    /// The levels there are, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|()| "use DEBUG, INFO, WARNING, ERROR or CRITICAL".to_owned())
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self(LevelFilter::INFO)
    }
}

impl FromStr for LogLevel {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(Self(match text.to_ascii_uppercase().as_str() {
            "NOTSET" | "TRACE" => LevelFilter::TRACE,
            "DEBUG" => LevelFilter::DEBUG,
            "INFO" => LevelFilter::INFO,
            "WARNING" | "WARN" => LevelFilter::WARN,
            "ERROR" | "CRITICAL" | "FATAL" => LevelFilter::ERROR,
            _ => return Err(()),
        }))
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

/// Where progress is shown: bars on a terminal, nothing (log lines instead) elsewhere.
#[derive(Debug, Clone)]
pub struct Screen {
    bars: Option<MultiProgress>,
}

impl Screen {
    /// The bars, on a terminal.
    #[must_use]
    pub const fn bars(&self) -> Option<&MultiProgress> {
        self.bars.as_ref()
    }
}

/// Whether to colour: only a terminal, and only if `NO_COLOR` is not set (no-color.org).
fn wants_colour(no_color: bool) -> bool {
    io::stderr().is_terminal() && !no_color
}

/// What is logged. Of libraries only what is wrong: at DEBUG and below they write down requests with
/// their headers, where secrets may be.
fn targets(LogLevel(level): LogLevel) -> Targets {
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("cts_", level)
}

/// Starts logging. Call once.
#[must_use]
pub fn start(level: LogLevel, format: LogFormat, no_color: bool) -> Screen {
    let bars = (io::stderr().is_terminal() && format == LogFormat::Text).then(MultiProgress::new);
    let screen = Screen { bars };
    let lines = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(screen.clone())
        .with_target(false);
    // Fails only when logging was started before, by a test.
    let _already_started = match format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).finish();
            tracing::subscriber::set_global_default(lines.with(targets(level)))
        }
        LogFormat::Text => {
            let lines = lines.with_ansi(wants_colour(no_color)).finish();
            tracing::subscriber::set_global_default(lines.with(targets(level)))
        }
    };
    screen
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter {
            screen: self.clone(),
        }
    }
}

/// Writes log lines above the bars, not through them.
#[derive(Debug)]
pub struct LineWriter {
    screen: Screen,
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let write = || io::stderr().write_all(bytes);
        match &self.screen.bars {
            Some(bars) => bars.suspend(write)?,
            None => write()?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_are_quiet_whatever_the_level() {
        let debug = targets("NOTSET".parse().unwrap());
        assert!(debug.would_enable("cts_executor::run", &Level::TRACE));
        assert!(debug.would_enable("cts_net::registry", &Level::DEBUG));
        for library in ["hyper_util::client", "aws_sigv4", "oci_client", "reqwest"] {
            assert!(!debug.would_enable(library, &Level::INFO), "{library}");
            assert!(debug.would_enable(library, &Level::WARN), "{library}");
        }
        let error = targets("ERROR".parse().unwrap());
        assert!(!error.would_enable("hyper_util::client", &Level::WARN));
    }
}
