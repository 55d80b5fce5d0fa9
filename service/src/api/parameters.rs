//! What path and query parameters may be, named as in the contract's OpenAPI document.

use std::sync::LazyLock;

use regex::Regex;

use cts_shared::job_input::rules::TextRule;

/// A rule of length and pattern.
macro_rules! text_rule {
    ($length:expr, $pattern:literal, $meaning:literal) => {
        TextRule::of_pattern(
            $length,
            LazyLock::new(|| Regex::new($pattern).expect("the pattern is constant")),
            $meaning,
        )
    };
}

/// Ids of jobs and reference data.
pub static ID: TextRule = text_rule!(
    1..=50,
    r"^[\w-]+$",
    "only letters, digits, underscores and hyphens"
);

/// Names of users.
pub static USER_NAME: TextRule = text_rule!(
    1..=100,
    r"^[a-z][a-z\d_]*$",
    "a lower-case letter, then lower-case letters, digits and underscores"
);

/// Most jobs in a list, and how many there are unless the caller says otherwise.
pub const MAX_LISTED_JOBS: u32 = 1000;

/// Age from which transitions count as not notified unless the caller says otherwise.
pub const DEFAULT_NOTIFICATION_AGE: &str = "PT10M";
