//! The tables, with goals and the existing system's figures beside.

use std::fmt;
use std::time::Duration;

use cts_tests::load::Figures;
use cts_tests::markdown::Table;

use crate::stage::Measured;

/// What a measurement should reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Requests in a second.
    PerSecond(f64),
    /// All but one of a hundred requests answered in this time.
    Within(Duration),
}

impl Goal {
    fn reached(self, figures: &Figures) -> bool {
        match self {
            Self::PerSecond(least) => figures.per_second() >= least,
            Self::Within(most) => figures.quantile(0.99) <= most,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerSecond(least) => write!(f, "{least:.0}/s"),
            Self::Within(most) => write!(f, "{} s", most.as_secs_f64()),
        }
    }
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "missed" }
}

/// Requests, their rates and latencies.
#[derive(Debug)]
pub(crate) struct Requests(Table);

impl Requests {
    pub(crate) fn new() -> Self {
        Self(Table::new(&[
            "request",
            "connections",
            "requests",
            "requests/s",
            "p50 ms",
            "p99 ms",
            "service's CPU ms",
            "goal",
            "existing system",
        ]))
    }

    pub(crate) fn add(
        &mut self,
        what: &str,
        connections: usize,
        measured: &Measured,
        goal: Option<Goal>,
        existing: &str,
    ) {
        let Measured { figures, cpu } = measured;
        #[expect(clippy::cast_precision_loss, reason = "nobody waits for 2^53 requests")]
        let requests = figures.count() as f64;
        let millis = |share| format!("{:.2}", figures.quantile(share).as_secs_f64() * 1e3);
        let goal = goal.map(|goal| format!("{goal}: {}", verdict(goal.reached(figures))));
        self.0.row(&[
            what,
            &connections.to_string(),
            &figures.count().to_string(),
            &rate(figures.per_second()),
            &millis(0.5),
            &millis(0.99),
            &format!("{:.3}", cpu.as_secs_f64() * 1e3 / requests),
            &goal.unwrap_or_default(),
            existing,
        ]);
    }
}

/// Three digits are more than such a figure is good for.
fn rate(per_second: f64) -> String {
    match per_second {
        small if small < 10.0 => format!("{small:.2}"),
        small if small < 100.0 => format!("{small:.1}"),
        large => format!("{large:.0}"),
    }
}

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The service's resident memory.
#[derive(Debug)]
pub(crate) struct Memory(Table);

impl Memory {
    pub(crate) fn new() -> Self {
        let columns = [
            "resident memory of the service",
            "MB",
            "goal",
            "existing system",
        ];
        Self(Table::new(&columns))
    }

    pub(crate) fn add(&mut self, when: &str, bytes: u64, goal_mb: Option<f64>, existing: &str) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a resident set is far below 2^53 bytes"
        )]
        let mb = bytes as f64 / 1e6;
        let goal = goal_mb.map(|goal| format!("below {goal}: {}", verdict(mb < goal)));
        self.0.row(&[
            when,
            &format!("{mb:.1}"),
            &goal.unwrap_or_default(),
            existing,
        ]);
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
