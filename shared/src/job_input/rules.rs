//! The bounds and patterns of a submission, in one place: the checks apply them, and the service's
//! API description shows them.
//!
//! Lengths count code points. In all patterns `\w` is Unicode-aware and `$` is the end of the text.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use regex::Regex;

use crate::validation::scalars::TextRule;

/// Containers of a job.
pub const CONTAINERS: RangeInclusive<u32> = 1..=1000;

/// CPUs of a container: the most that any site's nodes have.
pub const CPUS: RangeInclusive<u32> = 1..=256;

/// Bytes of memory that a container may ask for.
pub const MEMORY_BYTES: RangeInclusive<u64> = 1_000_000..=990_000_000_000;

/// Number of input files of a job.
pub const INPUT_FILES: RangeInclusive<usize> = 1..=10_000;

/// Memory of a container that asks for none, in bytes.
pub const DEFAULT_MEMORY_BYTES: u64 = 10_000_000;

/// Where inputs are mounted unless the job says otherwise.
pub const DEFAULT_INPUT_MOUNT_POINT: &str = "/input_files";

/// Where outputs are mounted unless the job says otherwise.
pub const DEFAULT_OUTPUT_MOUNT_POINT: &str = "/output_files";

/// An image's name as the user gives it.
pub static IMAGE: TextRule = TextRule::of_length(1..=1000);

/// A CRC64NVME in base64. Only its length is checked.
pub static CHECKSUM: TextRule = TextRule::of_length(12..=12);

/// The user's name for the data in a file.
pub static DATA_ID: TextRule = TextRule::of_length(1..=255);

/// First line of a manifest file.
pub static MANIFEST_HEADER: TextRule = TextRule::of_length(1..=1000);

/// A number and perhaps a unit at the start of a text. What follows is ignored, as the existing
/// service does.
pub static MEMORY_QUANTITY: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\s*(\d*\.?\d+)\s*(\w+)?").expect("the pattern is constant"));

/// A place in the container.
pub static MOUNT_POINT: TextRule = TextRule::of_pattern(
    1..=1024,
    r"^/(?:[\w.-]+/)*[\w.-]+/?$",
    "an absolute path below /, of letters, digits and _.-",
);

/// A literal argument, or the value of an environment variable.
pub static ARGUMENT: TextRule = TextRule::of_pattern(
    1..=1024,
    r"^[\w\./][\w\./-]*$",
    "a text of letters, digits and _./-, not starting with a hyphen",
);

/// A flag among the arguments.
pub static FLAG: TextRule = TextRule::of_pattern(
    2..=256,
    r"^--?[a-zA-Z0-9][\w\.-]*=?$",
    "a flag such as -i, --input or --input=",
);

/// Name of an environment variable.
pub static VARIABLE_NAME: TextRule = TextRule::of_pattern(
    1..=256,
    r"^[A-Z_][A-Z0-9_]*$",
    "a variable name of A to Z, 0 to 9 and _, not starting with a digit",
);
