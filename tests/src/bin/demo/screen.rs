//! What the spectator sees.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Numbered steps with the time each took.
#[derive(Debug)]
pub(crate) struct Screen {
    begun: Instant,
    step_begun: Instant,
    steps: u32,
    colour: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            begun: Instant::now(),
            step_begun: Instant::now(),
            steps: 0,
            colour,
        }
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, title: &str) {
        self.steps += 1;
        self.step_begun = Instant::now();
        let title = format!("{}. {title}", self.steps);
        let title = self.paint("1", &title);
        self.print(&format!("\n{title}"));
    }

    /// A line of the current step.
    pub(crate) fn line(&self, text: &str) {
        self.print(&format!("   {text}"));
    }

    /// Ends a step.
    pub(crate) fn done(&self) {
        let took = self.step_begun.elapsed().as_secs_f64();
        let total = self.begun.elapsed().as_secs_f64();
        let text = format!("   done in {took:.1} s ({total:.1} s in all)");
        let text = self.paint("2", &text);
        self.print(&text);
    }

    /// Something is as it should be.
    pub(crate) fn right(&self, text: &str) {
        let mark = self.paint("32", "ok");
        self.print(&format!("   {mark}  {text}"));
    }

    /// Says what went wrong.
    pub(crate) fn failed(&self, text: &str) {
        let mark = self.paint("31", "failed:");
        self.print(&format!("\n{mark} {text}"));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn print(&self, text: &str) {
        // Nobody watches a closed pipe; the demo goes on.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
}
