//! What path and query parameters may be, named as in the contract's OpenAPI document.

use serde_json::Value;

use cts_shared::id::ContainerNumber;
use cts_shared::job_input::rules::IMAGE;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::refdata::RefdataState;
use cts_shared::validation::Checked;
use cts_shared::validation::scalars::{TextRule, at_least, word};

/// Ids of jobs and reference data.
pub static ID: TextRule = TextRule::of_pattern(
    1..=50,
    r"^[\w-]+$",
    "only letters, digits, underscores and hyphens",
);

/// S3 paths, whose syntax is checked by those who use them.
pub static S3_PATH: TextRule = TextRule::of_length(5..=1088);

/// Names of users.
pub static USER_NAME: TextRule = TextRule::of_pattern(
    1..=100,
    r"^[a-z][a-z\d_]*$",
    "a lower-case letter, then lower-case letters, digits and underscores",
);

/// `job_id`, `refdata_id`
///
/// # Errors
/// With the fault.
pub fn id(value: &Value) -> Checked<String> {
    ID.check(value)
}

/// `image_id`
///
/// # Errors
/// With the fault.
pub fn image_name(value: &Value) -> Checked<String> {
    IMAGE.check(value)
}

/// `container_num`, `container_number`
///
/// # Errors
/// With the fault.
pub fn container_number(value: &Value) -> Checked<ContainerNumber> {
    // Larger than any job's: as unknown as any other number that is too large.
    at_least(value, 0).map(|number| ContainerNumber::try_from(number).unwrap_or(u32::MAX))
}

/// `attempt`
///
/// # Errors
/// With the fault.
pub fn attempt(value: &Value) -> Checked<u32> {
    // Larger than any container's, as above.
    at_least(value, 1).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

/// `state`, `new_state`
///
/// # Errors
/// With the fault.
pub fn state(value: &Value) -> Checked<JobState> {
    let words: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
    word(value, &words.join(", "))
}

/// `new_state` of reference data
///
/// # Errors
/// With the fault.
pub fn refdata_state(value: &Value) -> Checked<RefdataState> {
    let words: Vec<&str> = RefdataState::ALL
        .iter()
        .map(|state| state.as_str())
        .collect();
    word(value, &words.join(", "))
}

/// `s3_path`, `refdata_s3_path`
///
/// # Errors
/// With the fault.
pub fn s3_path(value: &Value) -> Checked<String> {
    S3_PATH.check(value)
}

/// `site`, `cluster`
///
/// # Errors
/// With the fault.
pub fn site(value: &Value) -> Checked<Site> {
    let words: Vec<&str> = Site::ALL.iter().map(|site| site.as_str()).collect();
    word(value, &words.join(", "))
}
