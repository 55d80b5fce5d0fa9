//! Chirp, by which a job talks to its starter: one line a command, one line with a number an answer, over
//! TCP. Of its commands the executor needs two: `cookie`, which says that it may talk, and
//! `set_job_attr_delayed`, which puts an attribute into the job's ad with the starter's next update.
//!
//! The starter takes attributes whose names begin with `Chirp` (`CHIRP_DELAYED_UPDATE_PREFIX`).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::config::Lookup;

/// The variable that names the file with host, port and cookie.
pub const CONFIG: &str = "_CONDOR_CHIRP_CONFIG";

/// Where that file is if the variable is not set.
const DEFAULT_CONFIG: &str = ".chirp.config";

/// The starter's limit of a line.
const MAX_LINE_BYTES: u64 = 1024;

/// Where the starter listens.
#[derive(Debug, Clone)]
pub struct Chirp {
    host: String,
    port: u16,
    cookie: SecretString,
}

/// Why an attribute was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ChirpError {
    /// No connection, or it broke.
    #[error("cannot talk to the starter: {0}")]
    Io(#[from] io::Error),
    /// A negative answer, or one that is no number.
    #[error("the starter answers {answer:?} to {command}")]
    Refused {
        /// The command's first word.
        command: &'static str,
        /// Its answer.
        answer: String,
    },
}

impl Chirp {
    /// Where `HTCondor` says that its starter listens; none where it does not say.
    #[must_use]
    pub fn find(lookup: Lookup<'_>, job_directory: &Path) -> Option<Self> {
        let named = lookup(CONFIG).map(|path| PathBuf::from(path.trim()));
        let path = named.unwrap_or_else(|| job_directory.join(DEFAULT_CONFIG));
        let mut text = String::new();
        let file = File::open(path).ok()?;
        file.take(MAX_LINE_BYTES).read_to_string(&mut text).ok()?;
        Self::parse(&text)
    }

    /// `host port cookie`, apart by white space.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let chirp = Self {
            host: words.next()?.to_owned(),
            port: words.next()?.parse().ok()?,
            cookie: SecretString::from(words.next()?.to_owned()),
        };
        words.next().is_none().then_some(chirp)
    }

    /// Sets attributes to `ClassAd` expressions, over one connection.
    ///
    /// # Errors
    /// When the starter cannot be reached or refuses one. To be called with a deadline.
    pub async fn set_job_attributes(
        &self,
        attributes: &[(&'static str, String)],
    ) -> Result<(), ChirpError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let mut stream = BufReader::new(stream);
        let cookie = self.cookie.expose_secret();
        ask(&mut stream, "cookie", &[cookie]).await?;
        for (name, expression) in attributes {
            ask(&mut stream, "set_job_attr_delayed", &[name, expression]).await?;
        }
        Ok(())
    }
}

async fn ask(
    stream: &mut BufReader<TcpStream>,
    command: &'static str,
    arguments: &[&str],
) -> Result<(), ChirpError> {
    let line = line(command, arguments);
    stream.get_mut().write_all(line.as_bytes()).await?;
    let mut answer = String::new();
    let read = stream.take(MAX_LINE_BYTES).read_line(&mut answer).await?;
    match answer.trim().parse::<i64>() {
        Ok(0..) => Ok(()),
        _ if read == 0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        _ => Err(ChirpError::Refused { command, answer }),
    }
}

/// A command as it is sent: words apart by a space; white space and backslashes within a word have a
/// backslash before them.
fn line(command: &str, arguments: &[&str]) -> String {
    let mut line = command.to_owned();
    for argument in arguments {
        line.push(' ');
        for c in argument.chars() {
            if matches!(c, '\\' | ' ' | '\n' | '\t' | '\r') {
                line.push('\\');
            }
            line.push(c);
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_together() {
        assert_eq!(line("cookie", &["abc"]), "cookie abc\n");
        assert_eq!(
            line("set_job_attr_delayed", &["ChirpX", "\"a \\\"b\\\"\""]),
            "set_job_attr_delayed ChirpX \"a\\ \\\\\"b\\\\\"\"\n"
        );
        assert_eq!(line("c", &["a\nquit"]), "c a\\\nquit\n");
    }

    #[test]
    fn the_file_has_three_words() {
        let chirp = Chirp::parse("127.0.0.1 4711 c00kie\n").unwrap();
        assert_eq!((chirp.host.as_str(), chirp.port), ("127.0.0.1", 4711));
        assert_eq!(chirp.cookie.expose_secret(), "c00kie");
        assert!(!format!("{chirp:?}").contains("c00kie"));
        for text in [
            "",
            "host",
            "host 1",
            "host x c",
            "host 70000 c",
            "host 1 c d",
        ] {
            assert!(Chirp::parse(text).is_none(), "{text}");
        }
    }
}
