//! Why an archive is not unpacked.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// An object is not unpacked. What had been written by then is of no use.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A member of the archive is refused or damaged.
    #[error("member \"{name}\" {reason}")]
    Member {
        /// The member's name as it is in the archive, escaped and shortened.
        name: String,
        /// Why.
        reason: Reason,
    },
    /// The archive as a whole is refused or damaged.
    #[error("archive \"{name}\" {reason}")]
    Archive {
        /// The object's file name, escaped.
        name: String,
        /// Why.
        reason: Reason,
    },
    /// Writing on would leave less than the reserve.
    #[error(
        "{} has {free_bytes} bytes free, of which {reserve_bytes} stay free; {needed_bytes} more are needed: \
         make room (`cts-executor refdata prune`) or use a larger file system",
        path.display()
    )]
    Reserve {
        /// Where the tree is.
        path: PathBuf,
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that must stay so.
        reserve_bytes: u64,
        /// Bytes about to be written.
        needed_bytes: u64,
    },
    /// The file system is full (`ENOSPC`).
    #[error(
        "no space left while writing {path:?}; make room (`cts-executor refdata prune`) or use a larger file system"
    )]
    DiskFull {
        /// What was being written, below the tree.
        path: String,
    },
    /// The user's quota is used up (`EDQUOT`).
    #[error("the disk quota is used up while writing {path:?}; raise it or remove other data")]
    QuotaExceeded {
        /// What was being written, below the tree.
        path: String,
    },
    /// The device failed (`EIO`).
    #[error("the disk failed while writing {path:?}; look at the kernel's log and replace it")]
    DiskFailed {
        /// What was being written, below the tree.
        path: String,
    },
    /// Another error of the file system.
    #[error("{path:?} cannot be written")]
    Io {
        /// What was being written, below the tree.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The object's bytes could not be read.
    #[error("the object cannot be read")]
    Source(#[source] io::Error),
    /// Somebody asked to stop.
    #[error("unpacking was cancelled")]
    Cancelled,
}

impl UnpackError {
    /// An error of the file system at `path`, below the tree.
    pub(super) fn write(path: &str, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::NOSPC => Self::DiskFull { path },
            Errno::DQUOT => Self::QuotaExceeded { path },
            Errno::IO => Self::DiskFailed { path },
            errno => Self::Io {
                path,
                source: errno.into(),
            },
        }
    }

    /// The reason, if the archive itself is at fault: another try with the same object ends the same way.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Member { reason, .. } | Self::Archive { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

/// What is wrong with an archive or one of its members.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No name, or none but `.`.
    #[error("has no name; pack it with one")]
    EmptyName,
    /// `/etc/passwd`.
    #[error("has an absolute path; pack with relative paths")]
    AbsolutePath,
    /// `..` in a path.
    #[error("has \"..\" in its path; pack it from within the directory")]
    ParentDirectory,
    /// A zero byte in a name or a link's target.
    #[error("has a zero byte in its name or target")]
    ZeroByte,
    /// `a\b` in a zip: a separator to some programs and not to others.
    #[error("has a backslash in its name; pack it with \"/\" between names")]
    Backslash,
    /// The name or target is no UTF-8.
    #[error("has a name or target that is not UTF-8; rename it and pack again")]
    NotUtf8,
    /// The name or target has a control character.
    #[error("has a control character in its name or target; rename it and pack again")]
    ControlCharacter,
    /// One name of the path is too long.
    #[error("has a name of more than {limit} bytes in its path; shorten it")]
    NameTooLong {
        /// The bound in bytes.
        limit: usize,
    },
    /// The path or target is too long.
    #[error("has a path or target of more than {limit} bytes; shorten it")]
    PathTooLong {
        /// The bound in bytes.
        limit: usize,
    },
    /// Too many directories inside each other.
    #[error("lies deeper than {limit} directories; flatten the tree")]
    TooDeep {
        /// The bound.
        limit: usize,
    },
    /// Something has this path already.
    #[error("comes twice, or as a file and as a directory; pack it once")]
    Collision,
    /// A directory of the path is a file.
    #[error("lies below something that is no directory; pack the tree again")]
    BelowFile,
    /// A directory of the path is a symbolic link.
    #[error("would be written through a symbolic link; pack the tree again without it")]
    ThroughLink,
    /// A device node.
    #[error("is a device; leave it out")]
    Device,
    /// A FIFO.
    #[error("is a FIFO; leave it out")]
    Fifo,
    /// A socket.
    #[error("is a socket; leave it out")]
    Socket,
    /// The setuid or setgid bit on a file.
    #[error("has the setuid or setgid bit; remove it (chmod a-s) and pack again")]
    SetId,
    /// A symbolic link to an absolute path.
    #[error("is a symbolic link to an absolute path; make it relative")]
    LinkAbsolute,
    /// A symbolic link that climbs out.
    #[error("is a symbolic link that leads out of the directory; point it inside or pack a copy")]
    LinkLeaves,
    /// A symbolic link that cannot be followed: a loop, through a file, or the kernel cannot check it.
    #[error("is a symbolic link that cannot be followed (a loop, or through a file); remove it")]
    LinkUnresolvable,
    /// A hard link to something else than a file that was unpacked before it.
    #[error(
        "is a hard link to no file that comes before it in the archive; pack a copy (tar --hard-dereference)"
    )]
    HardLinkTarget,
    /// A sparse file.
    #[error("is a sparse file; pack it without --sparse")]
    Sparse,
    /// A kind of member that is not known.
    #[error("is of the unknown type {0:?}; leave it out")]
    UnknownType(char),
    /// More files, directories and links than allowed.
    #[error("is one entry too many: at most {limit} are allowed (max_entries)")]
    TooManyEntries {
        /// The bound.
        limit: u64,
    },
    /// The names and the links' targets of all entries together are too long.
    #[error(
        "is one name too many: all names together may have {limit} bytes (256 for each of max_entries)"
    )]
    NamesTooLong {
        /// The bound in bytes.
        limit: u64,
    },
    /// More bytes than allowed, for an object of this size or at all.
    #[error(
        "unpacks to more than {limit} bytes, which is all an object of this size may (max_expansion, max_unpacked_gib)"
    )]
    TooLarge {
        /// The bound in bytes.
        limit: u64,
    },
    /// The bytes end too early.
    #[error("is cut off; upload the whole archive")]
    Truncated,
    /// Bytes after the end that are not zeros.
    #[error("is followed by bytes that do not belong to the archive; pack it again in one go")]
    TrailingBytes,
    /// The bytes are not what the format says.
    #[error("is damaged: {0}; pack and upload it again")]
    Damaged(String),
    /// A checksum of the archive's own does not hold.
    #[error("does not have the checksum that the archive states; pack and upload it again")]
    Checksum,
    /// A stated size does not hold.
    #[error("does not have the size that the archive states; pack and upload it again")]
    SizeMismatch,
    /// A name, link or attribute record larger than allowed.
    #[error(
        "has extended attributes of more than {limit} bytes; pack it without (tar --format=gnu)"
    )]
    ExtensionTooLong {
        /// The bound in bytes.
        limit: usize,
    },
    /// A global extended header with a path or link.
    #[error("is a global header that names all members alike; pack it without")]
    GlobalPath,
    /// A Zstandard window larger than allowed.
    #[error(
        "needs a Zstandard window of more than {limit_mib} MiB; compress it without --ultra or --long above 27"
    )]
    WindowTooLarge {
        /// The bound in MiB.
        limit_mib: u64,
    },
    /// An encrypted member of a zip.
    #[error("is encrypted; pack it without a password")]
    Encrypted,
    /// A compression method of zips that is not supported.
    #[error("is compressed by method {0}; pack with deflate, Zstandard or none")]
    Method(u16),
    /// A zip of several files.
    #[error("is part of a zip of several files; pack it as one")]
    MultiDisk,
    /// Members of a zip that share bytes.
    #[error("shares bytes with another member or with the directory; pack it again")]
    Overlap,
    /// A zip's directory and the header before the bytes disagree.
    #[error("is described differently by the zip's directory and before its bytes; pack it again")]
    HeaderMismatch,
    /// No directory at the end of a zip.
    #[error("has no zip directory at its end: it is cut off, or no zip; upload the whole archive")]
    NoDirectory,
}

impl Reason {
    /// A short name that does not change: for tests, logs and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::EmptyName => "empty-name",
            Self::AbsolutePath => "absolute-path",
            Self::ParentDirectory => "parent-directory",
            Self::ZeroByte => "zero-byte",
            Self::Backslash => "backslash",
            Self::NotUtf8 => "not-utf8",
            Self::ControlCharacter => "control-character",
            Self::NameTooLong { .. } => "name-too-long",
            Self::PathTooLong { .. } => "path-too-long",
            Self::TooDeep { .. } => "too-deep",
            Self::Collision => "collision",
            Self::BelowFile => "below-file",
            Self::ThroughLink => "through-link",
            Self::Device => "device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::SetId => "set-id",
            Self::LinkAbsolute => "link-absolute",
            Self::LinkLeaves => "link-leaves",
            Self::LinkUnresolvable => "link-unresolvable",
            Self::HardLinkTarget => "hard-link-target",
            Self::Sparse => "sparse",
            Self::UnknownType(_) => "unknown-type",
            Self::TooManyEntries { .. } => "too-many-entries",
            Self::NamesTooLong { .. } => "names-too-long",
            Self::TooLarge { .. } => "too-large",
            Self::Truncated => "truncated",
            Self::TrailingBytes => "trailing-bytes",
            Self::Damaged(_) => "damaged",
            Self::Checksum => "checksum",
            Self::SizeMismatch => "size-mismatch",
            Self::ExtensionTooLong { .. } => "extension-too-long",
            Self::GlobalPath => "global-path",
            Self::WindowTooLarge { .. } => "window-too-large",
            Self::Encrypted => "encrypted",
            Self::Method(_) => "method",
            Self::MultiDisk => "multi-disk",
            Self::Overlap => "overlap",
            Self::HeaderMismatch => "header-mismatch",
            Self::NoDirectory => "no-directory",
        }
    }
}
