//! From a file and the environment to checked values.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::fault::{Fault, Origin};
use super::file::{Entry, File, Scalar};
use super::keys::{AnyKey, KEYS, Key, Need, Status};
use super::kind::{Form, Show};
use super::suggest::nearest_variable;

/// Names the configuration file (contract config.md).
const FILE_VARIABLE: &str = "KB_DEPLOYMENT_CONFIG";

/// Shown instead of a secret.
const REDACTED: &str = "[redacted]";

/// Variables of the existing reference data server, which may share its environment with the service.
const OTHERS_VARIABLES: [&str; 4] = [
    "KBCTS_TASK_SERVICE_ROLE",
    "KBCTS_REFDATA_SERVICE_TOKEN",
    "KBCTS_REFDATA_LOCAL_PATH",
    "KBCTS_REFDATA_METADATA_PATH",
];

/// Where settings are looked for.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment: overrides the file.
    pub environment: BTreeMap<String, OsString>,
}

impl Sources {
    /// The process's environment, and the file; without one, the file that the environment names.
    #[must_use]
    pub fn of_process(file: Option<&Path>) -> Self {
        // An empty variable is an unset one.
        let named = || std::env::var_os(FILE_VARIABLE).filter(|name| !name.is_empty());
        Self {
            file: file
                .map(Path::to_owned)
                .or_else(|| named().map(PathBuf::from)),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .collect(),
        }
    }
}

/// A setting as it was given, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// `section.key`
    pub key: String,
    /// As understood, secrets redacted; none if absent.
    pub value: Option<String>,
    /// Where it came from; none if absent.
    pub origin: Option<Origin>,
    /// What becomes of it.
    pub status: Status,
}

/// A value and where it came from.
#[derive(Debug, Clone)]
struct Given {
    text: String,
    origin: Origin,
}

/// Reads settings one by one.
#[derive(Debug)]
pub(super) struct Reader {
    given: BTreeMap<String, Given>,
    pub(super) explained: Vec<Explained>,
    pub(super) faults: Vec<Fault>,
    /// What is allowed and probably not meant.
    pub(super) notes: Vec<String>,
}

impl Reader {
    /// Reads and checks every setting there is, used or not.
    pub(super) fn new(sources: &Sources) -> Self {
        let file = sources.file.as_deref().map(File::read).unwrap_or_default();
        let mut reader = Self {
            given: BTreeMap::new(),
            explained: Vec::with_capacity(KEYS.len()),
            faults: Vec::new(),
            notes: Vec::new(),
        };
        for key in KEYS {
            let given = match key.status() {
                Status::Ignored => raw(key, sources, &file),
                Status::Used | Status::NotYet => given(key, sources, &file),
            };
            match given {
                Ok(given) => reader.take(key, given),
                Err(fault) => reader.faults.push(fault),
            }
        }
        reader.note_private_file(&file);
        reader.faults.extend(file.faults);
        reader.note_unknown_variables(sources);
        reader
    }

    fn take(&mut self, key: &(dyn AnyKey + Sync), given: Option<Given>) {
        let explain = |value: Option<String>, origin: Option<Origin>| Explained {
            key: key.path(),
            value,
            origin,
            status: key.status(),
        };
        let Some(given) = given else {
            if key.need() == Need::Required {
                self.faults.push(missing(key, "it is not set"));
            }
            self.explained.push(explain(None, None));
            return;
        };
        let shown = if key.status() == Status::Ignored {
            Ok(shown_text(key, &given.text))
        } else {
            key.check(&given.text)
        };
        match shown {
            Ok(shown) => {
                if key.form() == Form::Flag && key.status() != Status::Ignored {
                    self.note_odd_flag(key, &given, &shown);
                }
                let shown = without_password(&shown);
                self.explained
                    .push(explain(Some(shown), Some(given.origin.clone())));
                self.given.insert(key.path(), given);
            }
            Err(why) => self.faults.push(wrong(key, &given, why.as_deref())),
        }
    }

    /// The value of a setting, if it was given (or has a default) and is right.
    pub(super) fn get<T: Show>(&self, key: &Key<T>) -> Option<T> {
        let given = self.given.get(&key.path())?;
        (key.kind.parse)(&given.text).ok()
    }

    /// A setting that another one makes necessary: absent is a fault, with the reason.
    pub(super) fn needed<T: Show>(&mut self, key: &'static Key<T>, reason: &str) -> Option<T> {
        let value = self.get(key);
        if value.is_none() && !self.faults.iter().any(|fault| fault.subject == key.path()) {
            self.faults
                .push(missing(key, &format!("it is not set, and {reason}")));
        }
        value
    }

    /// A fault that concerns a setting as it was given.
    pub(super) fn fault<T: Show>(&mut self, key: &Key<T>, problem: String) {
        let origin = self
            .given
            .get(&key.path())
            .map(|given| given.origin.clone());
        self.faults.push(Fault {
            subject: key.path(),
            origin,
            problem,
        });
    }

    /// Whether somebody gave a setting, so that it is not the default.
    pub(super) fn is_given<T: Show>(&self, key: &Key<T>) -> bool {
        self.given
            .get(&key.path())
            .is_some_and(|given| given.origin != Origin::Default)
    }

    /// The settings of a status that somebody gave.
    pub(super) fn given_with(&self, status: Status) -> Vec<String> {
        KEYS.iter()
            .filter(|key| key.status() == status)
            .map(|key| key.path())
            .filter(|path| {
                self.given
                    .get(path)
                    .is_some_and(|given| given.origin != Origin::Default)
            })
            .collect()
    }

    fn note_odd_flag(&mut self, key: &dyn AnyKey, given: &Given, shown: &str) {
        if given.text.to_lowercase() != shown {
            self.notes.push(format!(
                "{} ({}) is {:?}, which counts as {shown}: it must be {}",
                key.path(),
                given.origin,
                given.text,
                key.expected(),
            ));
        }
    }

    /// A file with secrets is for the service's eyes.
    fn note_private_file(&mut self, file: &File) {
        use std::os::unix::fs::PermissionsExt;
        let secret = KEYS.iter().find(|key| {
            let from_file = |given: &Given| matches!(given.origin, Origin::File { .. });
            key.form() == Form::Secret && self.given.get(&key.path()).is_some_and(from_file)
        });
        let for_all = std::fs::metadata(&file.path)
            .is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
        if let Some(secret) = secret
            && for_all
        {
            self.notes.push(format!(
                "every user of this machine can read {}, which holds {}; take that right away (chmod o-r)",
                file.path.display(),
                secret.path(),
            ));
        }
    }

    fn note_unknown_variables(&mut self, sources: &Sources) {
        for name in sources.environment.keys() {
            let known = KEYS.iter().any(|key| key.variable() == name);
            if known || !name.starts_with("KBCTS_") || OTHERS_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let suggestion = match nearest_variable(name) {
                Some(known) => format!("did you mean {known}?"),
                None => "docs/service.md lists all variables".to_owned(),
            };
            self.notes
                .push(format!("there is no variable {name}; {suggestion}"));
        }
    }
}

/// The value that counts, as text: variable before file before default.
fn given(
    key: &(dyn AnyKey + Sync),
    sources: &Sources,
    file: &File,
) -> Result<Option<Given>, Fault> {
    if let Some(given) = variable(key, sources)? {
        return Ok(Some(given));
    }
    if let Some(entry) = entry(key, file)
        && let Some(text) = written(key, entry, file)?
    {
        return Ok(Some(Given {
            text,
            origin: file.origin(entry.line),
        }));
    }
    Ok(match key.need() {
        Need::Default(text) => Some(Given {
            text: text.to_owned(),
            origin: Origin::Default,
        }),
        Need::Required | Need::Optional => None,
    })
}

/// Whatever stands there.
fn raw(key: &(dyn AnyKey + Sync), sources: &Sources, file: &File) -> Result<Option<Given>, Fault> {
    if let Some(given) = variable(key, sources)? {
        return Ok(Some(given));
    }
    Ok(entry(key, file).and_then(|entry| {
        let text = match &entry.value {
            Scalar::Text(text) | Scalar::Integer(text) | Scalar::Float(text) => text.clone(),
            Scalar::Flag(flag) => flag.to_string(),
            Scalar::Other(what) => (*what).to_owned(),
        };
        (!text.is_empty()).then(|| Given {
            text,
            origin: file.origin(entry.line),
        })
    }))
}

fn entry<'f>(key: &dyn AnyKey, file: &'f File) -> Option<&'f Entry> {
    file.entries
        .get(&(key.section().to_owned(), key.name().to_owned()))
}

fn variable(key: &dyn AnyKey, sources: &Sources) -> Result<Option<Given>, Fault> {
    let name = key.variable();
    let Some(value) = sources.environment.get(name) else {
        return Ok(None);
    };
    let origin = Origin::Variable(name.to_owned());
    let Some(text) = value.to_str() else {
        return Err(Fault {
            subject: key.path(),
            origin: Some(origin),
            problem: format!("it is not UTF-8; it must be {}", key.expected()),
        });
    };
    let text = text.trim();
    Ok((!text.is_empty()).then(|| Given {
        text: text.to_owned(),
        origin,
    }))
}

/// A value of the file as text, if it is written as its form demands; none if it is blank.
fn written(key: &(dyn AnyKey + Sync), entry: &Entry, file: &File) -> Result<Option<String>, Fault> {
    let not = |what: &str, instead: &str| {
        Err(Fault {
            subject: key.path(),
            origin: Some(file.origin(entry.line)),
            problem: format!("it is {what}; {instead}: it must be {}", key.expected()),
        })
    };
    let without_quotes = "write the number without quotes";
    let in_quotes = "write it in quotes";
    match (key.form(), &entry.value) {
        (_, Scalar::Text(text)) if text.is_empty() => Ok(None),
        (Form::Text | Form::Secret | Form::Flag, Scalar::Text(text)) => Ok(Some(text.clone())),
        (Form::Flag, Scalar::Flag(flag)) => Ok(Some(flag.to_string())),
        (Form::Integer | Form::Number, Scalar::Integer(text))
        | (Form::Number, Scalar::Float(text)) => Ok(Some(text.clone())),
        (Form::Integer | Form::Number, Scalar::Text(_)) => not("text", without_quotes),
        (Form::Integer, Scalar::Float(_)) => not("a number with a fraction", "write it without"),
        (Form::Integer | Form::Number, Scalar::Flag(_)) => not("a boolean", without_quotes),
        (Form::Flag, Scalar::Integer(_) | Scalar::Float(_)) => {
            not("a number", "write \"true\" or \"false\"")
        }
        (Form::Text | Form::Secret, Scalar::Flag(_)) => not("a boolean", in_quotes),
        (Form::Text | Form::Secret, Scalar::Integer(_) | Scalar::Float(_)) => {
            not("a number", in_quotes)
        }
        (Form::Integer | Form::Number, Scalar::Other(what)) => {
            not(&format!("an {what}"), without_quotes)
        }
        (_, Scalar::Other(what)) => not(&format!("of the type {what}"), in_quotes),
    }
}

fn missing(key: &dyn AnyKey, problem: &str) -> Fault {
    Fault {
        subject: key.path(),
        origin: None,
        problem: format!(
            "{problem}: {}; write {} = ... into section [{}] or set {}; it must be {}",
            key.meaning(),
            key.name(),
            key.section(),
            key.variable(),
            key.expected(),
        ),
    }
}

fn wrong(key: &dyn AnyKey, given: &Given, why: Option<&str>) -> Fault {
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let value = match key.form() {
        Form::Secret => "the value".to_owned(),
        _ => format!("{:?}", without_password(&given.text)),
    };
    Fault {
        subject: key.path(),
        origin: Some(given.origin.clone()),
        problem: format!("{value} is not right{why}; it must be {}", key.expected()),
    }
}

fn shown_text(key: &dyn AnyKey, text: &str) -> String {
    match key.form() {
        Form::Secret => REDACTED.to_owned(),
        _ => text.to_owned(),
    }
}

/// A value as it may be shown: an address may have a password in it, or an option that is a secret.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let shown = match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{REDACTED}@{host}"),
        None => text.to_owned(),
    };
    match shown.split_once('?') {
        Some((address, options)) => format!("{address}?{}", without_secrets(options)),
        None => shown,
    }
}

/// The options of an address as they may be shown.
fn without_secrets(options: &str) -> String {
    options
        .split_inclusive(['&', ';'])
        .map(|option| match option.split_once('=') {
            Some((name, value)) if is_secret(name) => {
                let end = value.trim_start_matches(|one| !['&', ';'].contains(&one));
                format!("{name}={REDACTED}{end}")
            }
            _ => option.to_owned(),
        })
        .collect()
}

/// Whether an option is a secret, by its name.
fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["password", "token", "secret", "authmechanismproperties"]
        .iter()
        .any(|secret| name.contains(secret))
}
