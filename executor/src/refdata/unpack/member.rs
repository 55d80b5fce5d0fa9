//! Names of members: what an archive may call a file, and what a symbolic link may say.
//!
//! Nothing is repaired: a name that would have to be changed to be safe is refused, because programs differ
//! in how they change it.

use super::error::{Reason, UnpackError};

/// The kernel's bound of one name (`NAME_MAX`).
const MAX_NAME_BYTES: usize = 255;
/// The kernel's bound of a path (`PATH_MAX`) without the zero byte at its end.
pub(super) const MAX_PATH_BYTES: usize = 4095;
/// Directories inside each other. Walking a tree takes a file descriptor for each.
pub(super) const MAX_DEPTH: usize = 128;
/// Characters of a name that errors quote.
const QUOTED_CHARS: usize = 200;

/// A member's name for messages: escaped, and shortened if it is long.
pub(super) fn quoted(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let mut shown: String = text
        .chars()
        .take(QUOTED_CHARS)
        .flat_map(|c| match c {
            // These need no escape within what errors print.
            '\'' => vec![c],
            c => c.escape_debug().collect(),
        })
        .collect();
    if text.chars().nth(QUOTED_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}

/// An error about the member of this name.
pub(super) fn refused(name: &[u8], reason: Reason) -> UnpackError {
    UnpackError::Member {
        name: quoted(name),
        reason,
    }
}

/// A path below the tree in its one form: names with `/` between them, neither `.` nor `..`, nothing at the
/// ends. Empty: the tree itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemberPath(String);

impl MemberPath {
    /// Checks a member's name. `./a`, `a/` and `a//b` are other spellings of `a` and `a/b`.
    pub(super) fn parse(name: &[u8]) -> Result<Self, Reason> {
        let text = checked_text(name)?;
        if text.starts_with('/') {
            return Err(Reason::AbsolutePath);
        }
        let mut path = String::with_capacity(text.len());
        let mut depth = 0;
        for component in text.split('/') {
            match component {
                "" | "." => continue,
                ".." => return Err(Reason::ParentDirectory),
                _ => {}
            }
            if component.len() > MAX_NAME_BYTES {
                return Err(Reason::NameTooLong {
                    limit: MAX_NAME_BYTES,
                });
            }
            depth += 1;
            if depth > MAX_DEPTH {
                return Err(Reason::TooDeep { limit: MAX_DEPTH });
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(component);
        }
        Ok(Self(path))
    }

    /// [`parse`](Self::parse) for what is no directory and so needs a name of its own.
    pub(super) fn parse_file(name: &[u8]) -> Result<Self, Reason> {
        let path = Self::parse(name)?;
        match name.last() {
            _ if path.0.is_empty() => Err(Reason::EmptyName),
            Some(b'/') => Err(Reason::EmptyName),
            _ => Ok(path),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory and the name in it.
    pub(super) fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }

    /// Checks what a symbolic link here says, by its text: the links it may pass are looked at when the whole
    /// tree is there.
    pub(super) fn link_target<'t>(&self, target: &'t [u8]) -> Result<&'t str, Reason> {
        let text = checked_text(target)?;
        if text.starts_with('/') {
            return Err(Reason::LinkAbsolute);
        }
        let (directory, _) = self.split();
        let mut depth = directory.split('/').filter(|name| !name.is_empty()).count();
        for component in text.split('/') {
            match component {
                "" | "." => {}
                ".." => depth = depth.checked_sub(1).ok_or(Reason::LinkLeaves)?,
                _ => depth += 1,
            }
        }
        Ok(text)
    }
}

/// The text of a name or target, if it is one.
fn checked_text(bytes: &[u8]) -> Result<&str, Reason> {
    if bytes.is_empty() {
        return Err(Reason::EmptyName);
    }
    if bytes.len() > MAX_PATH_BYTES {
        return Err(Reason::PathTooLong {
            limit: MAX_PATH_BYTES,
        });
    }
    if bytes.contains(&0) {
        return Err(Reason::ZeroByte);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Reason::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(Reason::ControlCharacter);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_form() {
        for (name, path) in [
            ("a", "a"),
            ("./a", "a"),
            ("a/", "a"),
            ("a//b/./c", "a/b/c"),
            ("./", ""),
            (".", ""),
            ("..a/b..", "..a/b.."),
            ("\u{e9}", "\u{e9}"),
        ] {
            assert_eq!(MemberPath::parse(name.as_bytes()).unwrap().as_str(), path);
        }
    }

    #[test]
    fn names_that_are_refused() {
        let long = "x".repeat(256);
        let deep = "d/".repeat(129);
        let wide = format!("{}/", "y".repeat(200)).repeat(21);
        for (name, code) in [
            ("", "empty-name"),
            ("/a", "absolute-path"),
            ("//", "absolute-path"),
            ("..", "parent-directory"),
            ("a/../b", "parent-directory"),
            ("a\0b", "zero-byte"),
            ("a\nb", "control-character"),
            ("a\u{85}", "control-character"),
            (&long, "name-too-long"),
            (&deep, "too-deep"),
            (&wide, "path-too-long"),
        ] {
            let reason = MemberPath::parse(name.as_bytes()).unwrap_err();
            assert_eq!(reason.code(), code, "{name:?}");
        }
        assert_eq!(MemberPath::parse(b"\xff").unwrap_err(), Reason::NotUtf8);
        for name in [".", "./", "a/", "a/b//"] {
            let reason = MemberPath::parse_file(name.as_bytes()).unwrap_err();
            assert_eq!(reason, Reason::EmptyName, "{name:?}");
        }
    }

    #[test]
    fn targets_stay_inside_by_their_text() {
        let link = MemberPath::parse(b"a/b/link").unwrap();
        for target in ["c", "../c", "../../c", "./x/../..", "../../a/b"] {
            link.link_target(target.as_bytes()).unwrap();
        }
        for target in ["../../..", "../../../c", "x/../../../../c"] {
            let reason = link.link_target(target.as_bytes()).unwrap_err();
            assert_eq!(reason, Reason::LinkLeaves, "{target}");
        }
        assert_eq!(link.link_target(b"/c").unwrap_err(), Reason::LinkAbsolute);
        assert_eq!(link.link_target(b"").unwrap_err(), Reason::EmptyName);
        assert_eq!(link.link_target(b"\xff").unwrap_err(), Reason::NotUtf8);
    }

    #[test]
    fn quoted_names_are_printable_and_short() {
        assert_eq!(quoted(b"a\nb\x1b[0m"), "a\\nb\\u{1b}[0m");
        assert_eq!(quoted("\u{202e}x".as_bytes()), "\\u{202e}x");
        assert!(quoted(&[b'x'; 5000]).len() < 300);
    }
}
