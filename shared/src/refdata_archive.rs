//! Which archives of reference data can be unpacked, by the file's name (contract service.md, section 10).

/// How a file of reference data is packed. The contract's are [`TarGz`](Self::TarGz) and [`Gz`](Self::Gz);
/// the others are this system's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArchiveFormat {
    /// `.tar`: a directory tree.
    Tar,
    /// `.tar.gz`, `.tgz`: a directory tree.
    TarGz,
    /// `.tar.zst`: a directory tree.
    TarZst,
    /// `.gz`: one file, of the archive's name without its ending.
    Gz,
    /// `.zst`: one file, of the archive's name without its ending.
    Zst,
    /// `.zip`: a directory tree.
    Zip,
}

/// Endings and what they mean, longer ones before those they end with.
const ENDINGS: [(&str, ArchiveFormat); 7] = [
    (".tar.gz", ArchiveFormat::TarGz),
    (".tgz", ArchiveFormat::TarGz),
    (".tar.zst", ArchiveFormat::TarZst),
    (".tar", ArchiveFormat::Tar),
    (".gz", ArchiveFormat::Gz),
    (".zst", ArchiveFormat::Zst),
    (".zip", ArchiveFormat::Zip),
];

impl ArchiveFormat {
    /// The format of a file by the end of its name, and the name without that ending. Upper and lower case
    /// are the same here; [`is_registrable`](Self::is_registrable) is stricter.
    #[must_use]
    pub fn of_name(name: &str) -> Option<(Self, &str)> {
        ENDINGS.iter().find_map(|(ending, format)| {
            let start = name.len().checked_sub(ending.len())?;
            let (stem, end) = name.split_at_checked(start)?;
            end.eq_ignore_ascii_case(ending).then_some((*format, stem))
        })
    }

    /// Whether a path may be registered to be unpacked: its ending must be in lower case.
    #[must_use]
    pub fn is_registrable(path: &str) -> bool {
        ENDINGS.iter().any(|(ending, _)| path.ends_with(ending))
    }

    /// The endings, for messages.
    #[must_use]
    pub fn endings() -> String {
        ENDINGS.map(|(ending, _)| ending).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_go_by_the_longest_ending() {
        let of = ArchiveFormat::of_name;
        assert_eq!(of("db.tar.gz"), Some((ArchiveFormat::TarGz, "db")));
        assert_eq!(of("db.TGZ"), Some((ArchiveFormat::TarGz, "db")));
        assert_eq!(of("db.tar.zst"), Some((ArchiveFormat::TarZst, "db")));
        assert_eq!(of("db.tar"), Some((ArchiveFormat::Tar, "db")));
        assert_eq!(of("db.faa.gz"), Some((ArchiveFormat::Gz, "db.faa")));
        assert_eq!(of("db.faa.Zst"), Some((ArchiveFormat::Zst, "db.faa")));
        assert_eq!(of("\u{e9}.zip"), Some((ArchiveFormat::Zip, "\u{e9}")));
        assert_eq!(of(".gz"), Some((ArchiveFormat::Gz, "")));
        for other in ["db", "db.tar.xz", "gz", "db.zip.txt", "", "\u{e9}\u{e9}"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn only_lower_case_endings_are_registered() {
        assert!(ArchiveFormat::is_registrable("bucket/db.tar.gz"));
        assert!(!ArchiveFormat::is_registrable("bucket/db.TAR.GZ"));
        assert!(!ArchiveFormat::is_registrable("bucket/db.fasta"));
    }
}
