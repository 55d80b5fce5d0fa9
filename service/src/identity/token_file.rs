//! Users in a local file, for one machine and for tests.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::distr::Alphanumeric;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{Identity, IdentityError, Role, User};

/// Characters of a fresh token: 190 bits.
const TOKEN_LENGTH: usize = 32;

/// A shorter token can be guessed.
const MIN_TOKEN_LENGTH: usize = 16;

/// Fails to read or write the token file.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// The file system says no.
    #[error("cannot {action} the token file {path}: {cause}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The content makes no sense. Never quotes it, for it holds tokens.
    #[error(
        "the token file {path} is not valid: {cause}; correct it, or remove it to get a new one"
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
}

/// The users of one file.
#[derive(Debug)]
pub struct TokenFile {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    token: SecretString,
    user: User,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileContent {
    user: Vec<FileUser>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileUser {
    name: String,
    token: String,
    #[serde(default)]
    roles: BTreeSet<Role>,
}

impl TokenFile {
    /// Users given as values.
    pub fn from_users(users: impl IntoIterator<Item = (SecretString, User)>) -> Self {
        Self {
            entries: users
                .into_iter()
                .map(|(token, user)| Entry { token, user })
                .collect(),
        }
    }

    /// Reads the file, or creates it (mode 0600) with fresh tokens for `dev` (an ordinary user),
    /// `admin` (a full administrator) and `executor` (reports container states).
    ///
    /// # Errors
    /// When the file can be neither read nor created, or holds nonsense.
    pub fn open_or_create(path: &Path) -> Result<Self, TokenFileError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = fresh_content();
                write_private(path, &text)?;
                Self::parse(path, &text)
            }
            Err(cause) => Err(TokenFileError::Io {
                action: "read",
                path: path.to_owned(),
                cause,
            }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, TokenFileError> {
        let invalid = |cause: String| TokenFileError::Invalid {
            path: path.to_owned(),
            cause,
        };
        // `message` leaves out the lines that the error's Display would quote.
        let content: FileContent =
            toml::from_str(text).map_err(|error| invalid(error.message().to_owned()))?;
        let mut names = BTreeSet::new();
        for user in &content.user {
            let token = &user.token;
            if token.len() < MIN_TOKEN_LENGTH || token.contains(char::is_whitespace) {
                return Err(invalid(format!(
                    "the token of user {:?} is shorter than {MIN_TOKEN_LENGTH} characters or has \
                     white space in it",
                    user.name
                )));
            }
            if user.name.is_empty() || !names.insert(user.name.clone()) {
                return Err(invalid(format!(
                    "the user name {:?} is empty or stands there twice",
                    user.name
                )));
            }
        }
        Ok(Self::from_users(content.user.into_iter().map(|user| {
            (
                SecretString::from(user.token),
                User {
                    name: user.name,
                    roles: user.roles,
                },
            )
        })))
    }

    /// Writes every user's token alone into a file of its own (mode 0600), named as the user: what
    /// an executor's `TOKEN_PATH` and a command line can read. Files there are overwritten.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_single_tokens(&self, directory: &Path) -> Result<(), TokenFileError> {
        std::fs::create_dir_all(directory).map_err(|cause| TokenFileError::Io {
            action: "write",
            path: directory.to_owned(),
            cause,
        })?;
        for entry in &self.entries {
            // A user name is a file name here; one with a slash cannot be.
            if entry.user.name.contains('/') || entry.user.name.starts_with('.') {
                continue;
            }
            let path = directory.join(&entry.user.name);
            write_private(&path, entry.token.expose_secret())?;
        }
        Ok(())
    }
}

fn fresh_content() -> String {
    let token = || -> String {
        rand::rng()
            .sample_iter(Alphanumeric)
            .take(TOKEN_LENGTH)
            .map(char::from)
            .collect()
    };
    format!(
        "# Users of this CTS service and their tokens. Read at start. Keep it private.\n\
         # Roles: full_admin, kbase_staff, nersc_account, external_executor, refdata_service.\n\
         # A full_admin needs kbase_staff and nersc_account too.\n\n\
         [[user]]\nname = \"dev\"\ntoken = \"{}\"\nroles = [\"kbase_staff\"]\n\n\
         [[user]]\nname = \"admin\"\ntoken = \"{}\"\n\
         roles = [\"full_admin\", \"kbase_staff\", \"nersc_account\"]\n\n\
         [[user]]\nname = \"executor\"\ntoken = \"{}\"\nroles = [\"external_executor\"]\n",
        token(),
        token(),
        token(),
    )
}

/// Writes a file only its owner can read; complete under its name or not there at all.
fn write_private(path: &Path, content: &str) -> Result<(), TokenFileError> {
    let io_error = |cause| TokenFileError::Io {
        action: "write",
        path: path.to_owned(),
        cause,
    };
    let partial = path.with_extension("partial");
    // A leftover of a killed start may have another mode.
    if let Err(error) = std::fs::remove_file(&partial)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(io_error(error));
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .map_err(io_error)?;
    file.write_all(content.as_bytes()).map_err(io_error)?;
    file.sync_all().map_err(io_error)?;
    std::fs::rename(&partial, path).map_err(io_error)
}

impl Identity for TokenFile {
    fn user<'a>(&'a self, token: &'a SecretString) -> BoxFuture<'a, Result<User, IdentityError>> {
        let mut found = None;
        for entry in &self.entries {
            // Every entry is compared in full, so that timing tells nothing about the tokens.
            if same(entry.token.expose_secret(), token.expose_secret()) {
                found = Some(entry.user.clone());
            }
        }
        futures::future::ready(found.ok_or(IdentityError::InvalidToken)).boxed()
    }

    fn check_user_name<'a>(
        &'a self,
        name: &'a str,
        _token: &'a SecretString,
    ) -> BoxFuture<'a, Result<(), IdentityError>> {
        let known = self.entries.iter().any(|entry| entry.user.name == name);
        let answer = if known {
            Ok(())
        } else {
            Err(IdentityError::no_such_user(name))
        };
        futures::future::ready(answer).boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), IdentityError>> {
        futures::future::ready(Ok(())).boxed()
    }
}

fn same(known: &str, given: &str) -> bool {
    let different = known
        .bytes()
        .zip(given.bytes())
        .fold(0, |different, (a, b)| different | (a ^ b));
    known.len() == given.len() && std::hint::black_box(different) == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_fresh_file_is_private_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.toml");
        let first = TokenFile::open_or_create(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = TokenFile::open_or_create(&path).unwrap();
        again
            .write_single_tokens(&dir.path().join("tokens"))
            .unwrap();
        for (name, role) in [
            ("dev", None),
            ("admin", Some(Role::FullAdmin)),
            ("executor", Some(Role::ExternalExecutor)),
        ] {
            let file = dir.path().join("tokens").join(name);
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let token = SecretString::from(std::fs::read_to_string(file).unwrap());
            let user = first.user(&token).await.unwrap();
            assert_eq!(user.name, name);
            assert_eq!(user.has(Role::FullAdmin), role == Some(Role::FullAdmin));
            assert_eq!(
                user.has(Role::ExternalExecutor),
                role == Some(Role::ExternalExecutor)
            );
        }
        let wrong = SecretString::from("not-a-token-at-all".to_owned());
        assert!(first.user(&wrong).await.is_err());
        first.check_user_name("dev", &wrong).await.unwrap();
        let unknown = first.check_user_name("de", &wrong).await.unwrap_err();
        assert!(matches!(unknown, IdentityError::InvalidUserName(_)));
    }

    #[test]
    fn a_broken_file_is_refused_without_quoting_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.toml");
        for text in [
            "[[user]]\nname = \"a\"\ntoken = \"short\"\n",
            "[[user]]\nname = \"a\"\ntoken = \"secret0123456789\"\ncolour = 1\n",
            "[[user]]\nname = \"a\"\ntoken = \"secret0123456789\"\n[[user]]\nname = \"a\"\ntoken = \"secret0123456780\"\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let error = TokenFile::open_or_create(&path).unwrap_err().to_string();
            assert!(error.contains("tokens.toml"), "{error}");
            assert!(!error.contains("secret0"), "{error}");
        }
    }
}
