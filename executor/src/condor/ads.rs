//! The ads of the job and of the machine, as HTCondor leaves them in the job directory: lines of
//! `Name = expression`. Only plain integers are understood; everything else counts as not there.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use crate::config::Lookup;

/// The variable that names the file with the job's ad.
pub const JOB_AD: &str = "_CONDOR_JOB_AD";
/// The variable that names the file with the machine's ad.
pub const MACHINE_AD: &str = "_CONDOR_MACHINE_AD";

/// Ads have a few hundred attributes; this is far beyond any.
const MAX_AD_BYTES: u64 = 4 * 1024 * 1024;

/// How long HTCondor lets a job run on after it was told to end: the smaller of what the job asks for and
/// what the machine allows. None where neither says so in a plain number.
#[must_use]
pub fn vacate_time(lookup: Lookup<'_>) -> Option<Duration> {
    let of_ad = |variable: &str, attribute| {
        let path = lookup(variable)?;
        seconds(&read(Path::new(path.trim()))?, attribute)
    };
    let asked = of_ad(JOB_AD, "JobMaxVacateTime");
    let allowed = of_ad(MACHINE_AD, "MachineMaxVacateTime");
    asked.into_iter().chain(allowed).min()
}

/// An ad that cannot be read tells nothing; it is HTCondor's, and no job shall fail for it.
fn read(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    let file = File::open(path).ok()?;
    file.take(MAX_AD_BYTES).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// An attribute that is a number of seconds. Names go without regard to case, as in all ads.
fn seconds(ad: &str, attribute: &str) -> Option<Duration> {
    let value = ad.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        name.trim().eq_ignore_ascii_case(attribute).then_some(value)
    })?;
    value.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_understood_and_nothing_else() {
        for (ad, expected) in [
            ("A = 1\nJobMaxVacateTime = 30\nB = 2\n", Some(30)),
            ("jobmaxvacatetime=600", Some(600)),
            ("JobMaxVacateTime = 0\r\n", Some(0)),
            ("OldJobMaxVacateTime = 30", None),
            ("JobMaxVacateTime = 10 * 60", None),
            ("JobMaxVacateTime = \"30\"", None),
            ("JobMaxVacateTime = -1", None),
            ("JobMaxVacateTime = undefined", None),
            ("JobMaxVacateTime = 99999999999999999999999", None),
            ("JobMaxVacateTime", None),
            ("", None),
        ] {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(seconds(ad, "JobMaxVacateTime"), expected, "{ad:?}");
        }
    }

    #[test]
    fn the_smaller_of_both_counts_and_what_is_not_there_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let job = file("job", "JobMaxVacateTime = 30");
        let machine = file("machine", "MachineMaxVacateTime = 20");
        let odd = file(
            "odd",
            "JobMaxVacateTime = ifThenElse(true, 1, 2)\nMachineMaxVacateTime = x",
        );
        let absent = directory.path().join("absent").display().to_string();
        for (job, machine, expected) in [
            (Some(&job), Some(&machine), Some(20)),
            (Some(&job), None, Some(30)),
            (Some(&odd), Some(&machine), Some(20)),
            (Some(&job), Some(&absent), Some(30)),
            (Some(&odd), Some(&odd), None),
            (None, None, None),
        ] {
            let lookup = |name: &str| match name {
                JOB_AD => job.cloned(),
                _ => machine.cloned(),
            };
            assert_eq!(vacate_time(&lookup), expected.map(Duration::from_secs));
        }
    }
}
