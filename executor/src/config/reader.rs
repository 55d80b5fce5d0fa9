//! Reads variables one by one and collects everything that is wrong with them.

use std::str::FromStr;
use std::time::Duration;

use cts_net::secret::Secret;
use url::Url;

use super::SecretOrigin;
use crate::variables::Variable;

/// One setting that is missing or wrong, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not set.
    #[error("{name} is not set; it should be {meaning}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What it should be.
        meaning: &'static str,
    },
    /// Neither of two variables is set.
    #[error("neither {path} nor {value} is set; {path} should be {meaning}")]
    MissingSecret {
        /// The variable with the path.
        path: &'static str,
        /// The variable with the value.
        value: &'static str,
        /// What the path should be.
        meaning: &'static str,
    },
    /// Set to something else than it should be.
    #[error("{name} is {given:?}; it should be {meaning}")]
    Wrong {
        /// The variable.
        name: &'static str,
        /// Its value.
        given: String,
        /// What it should be.
        meaning: &'static str,
    },
    /// Its file is not usable.
    #[error("{name}: {cause}")]
    SecretFile {
        /// The variable.
        name: &'static str,
        /// What is wrong with the file.
        cause: String,
    },
    /// Empty secret in the environment.
    #[error("{name} is empty or not one line of text; it should be {meaning}")]
    WrongSecret {
        /// The variable.
        name: &'static str,
        /// What it should be.
        meaning: &'static str,
    },
}

/// Looks a variable up: flags first, then the environment.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads variables and collects what is wrong with them.
pub(crate) struct Reader<'a> {
    lookup: Lookup<'a>,
    pub(crate) errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(lookup: Lookup<'a>) -> Self {
        let errors = Vec::new();
        Self { lookup, errors }
    }

    fn text(&self, variable: Variable) -> Option<String> {
        (self.lookup)(variable.name).map(|value| value.trim().to_owned())
    }

    fn wrong<T>(&mut self, variable: Variable, given: &str) -> Option<T> {
        let Variable { name, meaning, .. } = variable;
        let given = without_password(given);
        self.errors.push(ConfigError::Wrong {
            name,
            given,
            meaning,
        });
        None
    }

    /// A variable that must be set and that `parse` must accept.
    pub(crate) fn required<T>(
        &mut self,
        variable: Variable,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let Some(given) = self.text(variable) else {
            let Variable { name, meaning, .. } = variable;
            self.errors.push(ConfigError::Missing { name, meaning });
            return None;
        };
        match parse(&given) {
            Some(value) => Some(value),
            None => self.wrong(variable, &given),
        }
    }

    /// A variable that `parse` must accept if it is set.
    pub(crate) fn optional<T>(
        &mut self,
        variable: Variable,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let given = self.text(variable)?;
        match parse(&given) {
            Some(value) => Some(value),
            None => self.wrong(variable, &given),
        }
    }

    /// A secret: the file wins, the plain variable is then ignored, even if the file is missing.
    pub(crate) fn secret(&mut self, path: Variable, value: Variable) -> Option<SecretOrigin> {
        if self.text(path).is_some() {
            return self
                .required(path, non_empty)
                .map(|path| SecretOrigin::File(path.into()));
        }
        let Some(text) = self.text(value) else {
            let meaning = path.meaning;
            let (path, value) = (path.name, value.name);
            self.errors.push(ConfigError::MissingSecret {
                path,
                value,
                meaning,
            });
            return None;
        };
        if text.is_empty() || text.chars().any(char::is_control) {
            let Variable { name, meaning, .. } = value;
            self.errors.push(ConfigError::WrongSecret { name, meaning });
            return None;
        }
        Some(SecretOrigin::Value(Secret::from(text)))
    }
}

/// A value as it may be shown: an address may have a password in it.
fn without_password(text: &str) -> String {
    match text
        .split_once("://")
        .map(|(scheme, rest)| (scheme, rest.rsplit_once('@')))
    {
        Some((scheme, Some((_, host)))) => format!("{scheme}://[redacted]@{host}"),
        _ => text.to_owned(),
    }
}

pub(crate) fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

pub(crate) fn http_url(text: &str) -> Option<Url> {
    let url = Url::parse(text.trim_end_matches('/')).ok()?;
    let usable = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    usable.then_some(url)
}

pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "t" | "y" => Some(true),
        "false" | "0" | "no" | "off" | "f" | "n" => Some(false),
        _ => None,
    }
}

pub(crate) fn between<T: FromStr + PartialOrd>(text: &str, lowest: T, highest: T) -> Option<T> {
    text.parse()
        .ok()
        .filter(|value| (lowest..=highest).contains(value))
}

pub(crate) fn minutes(text: &str) -> Option<Duration> {
    // A year: longer makes no sense and would overflow arithmetic on the way.
    between::<u64>(text, 1, 525_600).map(|minutes| Duration::from_secs(minutes * 60))
}
