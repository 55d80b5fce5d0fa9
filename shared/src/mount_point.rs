//! Where a container may have its input, output and reference data mounted.
//!
//! The schema's pattern lets places through that would break the container or hide one mount below
//! another. The service refuses them at submission, the executor again before it runs anything.

/// Places that belong to the system inside every container, with everything below them.
const RESERVED: [&str; 6] = ["/dev", "/etc", "/proc", "/run", "/sys", "/var/run"];

/// A mount point cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMountPoint {
    /// `.`, `..` or empty segments, or not absolute.
    #[error(
        "{name} {path:?} is not a plain absolute path; write it without \".\", \"..\" and \"//\""
    )]
    NotPlain {
        /// The parameter.
        name: &'static str,
        /// Its value.
        path: String,
    },
    /// One of the places that belong to the system.
    #[error(
        "{name} {path:?} lies in {reserved}, which belongs to the system inside the container; choose \
         a directory of its own such as /data"
    )]
    Reserved {
        /// The parameter.
        name: &'static str,
        /// Its value.
        path: String,
        /// The place it lies in.
        reserved: &'static str,
    },
    /// Two mounts would hide each other.
    #[error(
        "{first} {first_path:?} and {second} {second_path:?} overlap; choose directories that do not \
         contain each other"
    )]
    Overlap {
        /// One parameter.
        first: &'static str,
        /// Its value.
        first_path: String,
        /// The other parameter.
        second: &'static str,
        /// Its value.
        second_path: String,
    },
}

/// Whether `inner` is `outer` or lies below it; both without a slash at the end.
fn is_within(inner: &str, outer: &str) -> bool {
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Checks the mount points of one container: parameter name and value of each.
///
/// # Errors
/// For the first one that cannot be used.
pub fn check_mount_points(mounts: &[(&'static str, &str)]) -> Result<(), InvalidMountPoint> {
    let plain = |path: &str| path.strip_suffix('/').unwrap_or(path).to_owned();
    for &(name, path) in mounts {
        let segments = plain(path);
        let is_plain = segments
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")));
        if !is_plain {
            return Err(InvalidMountPoint::NotPlain {
                name,
                path: path.to_owned(),
            });
        }
        if let Some(reserved) = RESERVED
            .into_iter()
            .find(|place| is_within(&segments, place))
        {
            return Err(InvalidMountPoint::Reserved {
                name,
                path: path.to_owned(),
                reserved,
            });
        }
    }
    for (index, &(first, first_path)) in mounts.iter().enumerate() {
        for &(second, second_path) in &mounts[index + 1..] {
            let (one, other) = (plain(first_path), plain(second_path));
            if is_within(&one, &other) || is_within(&other, &one) {
                return Err(InvalidMountPoint::Overlap {
                    first,
                    first_path: first_path.to_owned(),
                    second,
                    second_path: second_path.to_owned(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&'static str]) -> Result<(), InvalidMountPoint> {
        let mounts: Vec<_> = paths.iter().map(|path| ("mount point", *path)).collect();
        check_mount_points(&mounts)
    }

    #[test]
    fn ordinary_places_pass() {
        check(&["/input_files", "/output_files/", "/refdata"]).unwrap();
        check(&[
            "/data/in",
            "/data/out",
            "/devices",
            "/etcetera",
            "/home/x.y/.z",
        ])
        .unwrap();
    }

    #[test]
    fn system_places_and_odd_paths_are_refused() {
        for path in ["/", "", "relative", "/a/../b", "/./a", "/a//b", "/a/.."] {
            assert!(
                matches!(check(&[path]), Err(InvalidMountPoint::NotPlain { .. })),
                "{path}"
            );
        }
        for path in [
            "/proc",
            "/proc/self",
            "/etc/",
            "/dev/shm",
            "/var/run/docker.sock",
        ] {
            assert!(
                matches!(check(&[path]), Err(InvalidMountPoint::Reserved { .. })),
                "{path}"
            );
        }
    }

    #[test]
    fn mounts_that_hide_each_other_are_refused() {
        for pair in [["/a", "/a/"], ["/a", "/a/b"], ["/a/b/c", "/a"]] {
            assert!(
                matches!(check(&pair), Err(InvalidMountPoint::Overlap { .. })),
                "{pair:?}"
            );
        }
        check(&["/a", "/ab"]).unwrap();
    }
}
