//! What a setting may be: how it is written, what it means, and what to tell those who wrote something else.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use axum::http::HeaderValue;
use cts_net::secret::Secret;
use url::Url;

use super::PathPrefix;
use crate::telemetry::{LogFormat, LogLevel};

/// How a value is written in a TOML file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// In quotes.
    Text,
    /// In quotes, and never shown.
    Secret,
    /// In quotes, as the existing service has it; TOML's own `true` and `false` are fine, too.
    Flag,
    /// A number without a fraction and without quotes.
    Integer,
    /// A number without quotes.
    Number,
}

/// A kind of values that become a `T`.
#[derive(Debug)]
pub struct Kind<T> {
    /// How it is written.
    pub form: Form,
    /// What it must be; completes "it must be ...". Stands in the documentation, too.
    pub expected: &'static str,
    /// From text without white space around it, never empty. The error says what is wrong, if there is more
    /// to say than that it is not what is expected; it never repeats the text.
    pub parse: fn(&str) -> Result<T, Mismatch>,
}

/// The text is not of the kind; why, where that is not obvious.
pub type Mismatch = Option<String>;

impl<T> Clone for Kind<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Kind<T> {}

/// A value as it may be shown.
pub trait Show: std::fmt::Debug {
    /// One line, secrets redacted.
    fn show(&self) -> String;
}

const REDACTED: &str = "[redacted]";

/// Any text.
pub const TEXT: Kind<String> = Kind {
    form: Form::Text,
    expected: "text",
    parse: |text| Ok(text.to_owned()),
};

/// Where the servers of a MongoDB database are, as its drivers take it. It may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString(String);

impl ConnectionString {
    /// With the scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Show for ConnectionString {
    fn show(&self) -> String {
        self.0.clone()
    }
}

/// Hosts of a database. The scheme may be left out, as for the existing service.
pub const CONNECTION_STRING: Kind<ConnectionString> = Kind {
    form: Form::Text,
    expected: "a host and port, or a connection string that begins with `mongodb://` or `mongodb+srv://`",
    parse: |text| match text.split_once("://") {
        None => Ok(ConnectionString(format!("mongodb://{text}"))),
        Some(("mongodb" | "mongodb+srv", _)) => Ok(ConnectionString(text.to_owned())),
        Some(_) => Err(None),
    },
};

/// Kinds of stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// A file.
    Sqlite,
    /// A `MongoDB` database.
    Mongodb,
}

/// One of them.
pub const STORE: Kind<StoreKind> = Kind {
    form: Form::Text,
    expected: "`sqlite` or `mongodb`",
    parse: |text| match text {
        "sqlite" => Ok(StoreKind::Sqlite),
        "mongodb" => Ok(StoreKind::Mongodb),
        _ => Err(None),
    },
};

/// A key or token.
pub const SECRET: Kind<Secret> = Kind {
    form: Form::Secret,
    expected: "one line of text (secret)",
    parse: |text| {
        if text.chars().any(char::is_control) {
            return Err(None);
        }
        Ok(Secret::from(text.to_owned()))
    },
};

/// Several texts.
pub const LIST: Kind<Vec<String>> = Kind {
    form: Form::Text,
    expected: "a list with commas between",
    parse: |text| Ok(split(text).map(str::to_owned).collect()),
};

/// A flag that is set by `true` in any case, and by nothing else.
pub const TRUE_ANY_CASE: Kind<bool> = Kind {
    form: Form::Flag,
    expected: "`true` in any case, else it is false",
    parse: |text| Ok(text.eq_ignore_ascii_case("true")),
};

/// A flag that is set by `true`, and by nothing else.
pub const EXACTLY_TRUE: Kind<bool> = Kind {
    form: Form::Flag,
    expected: "exactly `true`, else it is false",
    parse: |text| Ok(text == "true"),
};

/// A flag that is set by anything but `false`.
pub const NOT_EXACTLY_FALSE: Kind<bool> = Kind {
    form: Form::Flag,
    expected: "exactly `false`, else it is true",
    parse: |text| Ok(text != "false"),
};

/// An integer from 1; days, hours, minutes, seconds or a count.
pub const FROM_ONE: Kind<u32> = Kind {
    form: Form::Integer,
    expected: "an integer from 1",
    parse: integer::<u32, 1, { u32::MAX as i64 }>,
};

/// A count that may be none.
pub const FROM_ZERO: Kind<u32> = Kind {
    form: Form::Integer,
    expected: "an integer from 0",
    parse: integer::<u32, 0, { u32::MAX as i64 }>,
};

/// Minutes after the start; below 1 switches something off.
pub const ANY_INTEGER: Kind<i64> = Kind {
    form: Form::Integer,
    expected: "an integer",
    parse: integer::<i64, { i64::MIN }, { i64::MAX }>,
};

/// Seconds, up to a day.
pub const SECONDS: Kind<u32> = Kind {
    form: Form::Integer,
    expected: "an integer from 1 to 86400",
    parse: integer::<u32, 1, 86_400>,
};

/// Seconds of a lease, from the least that `condor_submit` takes to a week.
pub const LEASE_SECONDS: Kind<u32> = Kind {
    form: Form::Integer,
    expected: "an integer from 20 to 604800",
    parse: integer::<u32, 20, 604_800>,
};

/// A size that memory must have room for many times.
pub const BYTES: Kind<usize> = Kind {
    form: Form::Integer,
    expected: "an integer from 4096 to 1073741824",
    parse: integer::<usize, 4096, 1_073_741_824>,
};

/// A TCP port.
pub const PORT: Kind<u16> = Kind {
    form: Form::Integer,
    expected: "an integer from 0 to 65535; 0 takes a free port",
    parse: integer::<u16, 0, 65_535>,
};

/// A number of which fractions make sense.
pub const NUMBER_FROM_ONE: Kind<f64> = Kind {
    form: Form::Number,
    expected: "a number from 1",
    parse: |text| match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 1.0 => Ok(number),
        _ => Err(None),
    },
};

/// The root of a service or store.
pub const HTTP_URL: Kind<Url> = Kind {
    form: Form::Text,
    expected: "an http or https URL",
    parse: http_url,
};

/// A path from the root, with something behind the first `/`.
pub const ABSOLUTE_PATH: Kind<PathBuf> = Kind {
    form: Form::Text,
    expected: "an absolute path with at least one element",
    parse: |text| match text.trim_matches('/') {
        "" => Err(None),
        _ if text.starts_with('/') => Ok(PathBuf::from(text)),
        _ => Err(Some("it does not start with /".to_owned())),
    },
};

/// A path, by the working directory if it is relative.
pub const PATH: Kind<PathBuf> = Kind {
    form: Form::Text,
    expected: "a path",
    parse: |text| Ok(PathBuf::from(text)),
};

/// A bucket or a path in one.
pub const S3_PATH: Kind<PathPrefix> = Kind {
    form: Form::Text,
    expected: "a bucket, or bucket/key",
    parse: |text| text.parse().map_err(path_problem),
};

/// Buckets or paths in them: sorted, each once.
pub const S3_PATHS: Kind<Vec<PathPrefix>> = Kind {
    form: Form::Text,
    expected: "a list of buckets or bucket/key with commas between",
    parse: |text| {
        let mut paths = split(text)
            .map(str::parse)
            .collect::<Result<Vec<PathPrefix>, _>>()
            .map_err(path_problem)?;
        paths.sort_unstable();
        paths.dedup();
        Ok(paths)
    },
};

/// Two absolute paths.
pub const MOUNT_PREFIX: Kind<String> = Kind {
    form: Form::Text,
    expected: "OLD:NEW, two absolute paths",
    parse: |text| match text.split_once(':') {
        Some((old, new)) if old.starts_with('/') && new.starts_with('/') && !new.contains(':') => {
            Ok(text.to_owned())
        }
        _ => Err(None),
    },
};

/// Kafka's port, where none is given.
const KAFKA_PORT: u16 = 9092;

/// Kafka brokers, each as host:port.
pub const KAFKA_SERVERS: Kind<Vec<String>> = Kind {
    form: Form::Text,
    expected: "a list of host:port with commas between; the port is 9092 if it is left out",
    parse: |text| {
        let servers = split(text)
            .map(kafka_server)
            .collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err(None);
        }
        Ok(servers)
    },
};

/// One Kafka broker as host:port. An IPv6 address is in brackets, as in a URL.
///
/// # Errors
/// When it is something else.
pub fn kafka_server(text: &str) -> Result<String, Mismatch> {
    let url = Url::parse(&format!("kafka://{text}")).map_err(|_| None)?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(None)?;
    let port = url.port().unwrap_or(KAFKA_PORT);
    let server = format!("{host}:{port}");
    // Nothing else may be in it.
    if server == text || server == format!("{text}:{port}") {
        Ok(server)
    } else {
        Err(None)
    }
}

/// A name that every Kafka broker takes, as the existing service has it.
pub const TOPIC: Kind<String> = Kind {
    form: Form::Text,
    expected: "letters, digits and hyphens",
    parse: |text| {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
        text.chars().all(fine).then(|| text.to_owned()).ok_or(None)
    },
};

/// An address to listen on.
pub const ADDRESS: Kind<IpAddr> = Kind {
    form: Form::Text,
    expected: "an IP address; 0.0.0.0 or :: means all",
    parse: |text| text.parse().map_err(|_| None),
};

/// Origins as browsers send them.
pub const ORIGINS: Kind<Vec<HeaderValue>> = Kind {
    form: Form::Text,
    expected: "a list of origins such as https://narrative.kbase.us with commas between",
    parse: |text| split(text).map(origin).collect(),
};

/// Registries by host, or host and port.
pub const REGISTRIES: Kind<Vec<String>> = Kind {
    form: Form::Text,
    expected: "a list of HOST or HOST:PORT with commas between",
    parse: |text| {
        split(text)
            .map(|host| match host.contains('/') {
                true => Err(Some("a registry has no / in it".to_owned())),
                false => Ok(host.to_owned()),
            })
            .collect()
    },
};

/// Least level of log lines.
pub const LOG_LEVEL: Kind<LogLevel> = Kind {
    form: Form::Text,
    expected: "DEBUG, INFO, WARNING or ERROR",
    parse: |text| text.parse().map_err(|_| None),
};

/// The look of log lines.
pub const LOG_FORMAT: Kind<LogFormat> = Kind {
    form: Form::Text,
    expected: "json or text",
    parse: |text| match text {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err(None),
    },
};

/// Which program the existing image starts. This one is the service.
pub const MODE: Kind<()> = Kind {
    form: Form::Text,
    expected: "anything but `refdata`",
    parse: |text| match text {
        "refdata" => Err(Some(
            "the reference data server is not part of this program; it will be `cts-executor \
             refdata-server`"
                .to_owned(),
        )),
        _ => Ok(()),
    },
};

fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

fn integer<T: TryFrom<i64>, const LEAST: i64, const MOST: i64>(text: &str) -> Result<T, Mismatch> {
    i64::from_str(text)
        .ok()
        .filter(|number| (LEAST..=MOST).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or(None)
}

fn http_url(text: &str) -> Result<Url, Mismatch> {
    let url = Url::parse(text).map_err(|error| Some(error.to_string()))?;
    let problem = if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        None
    } else if !url.username().is_empty() || url.password().is_some() {
        Some("a user name or password in it is not supported")
    } else if url.query().is_some() || url.fragment().is_some() {
        Some("a query or fragment in it makes no sense")
    } else {
        return Ok(url);
    };
    Err(problem.map(str::to_owned))
}

fn origin(text: &str) -> Result<HeaderValue, Mismatch> {
    let url = http_url(text)?;
    if text.ends_with('/') || url.path() != "/" {
        return Err(Some(
            "an origin is scheme, host and port without a / at the end".to_owned(),
        ));
    }
    HeaderValue::from_str(text).map_err(|error| Some(error.to_string()))
}

fn path_problem(error: super::InvalidPathPrefix) -> Mismatch {
    Some(error.to_string())
}

macro_rules! show_as_displayed {
    ($($type:ty),*) => {
        $(impl Show for $type {
            fn show(&self) -> String {
                self.to_string()
            }
        })*
    };
}

show_as_displayed!(String, bool, u16, u32, usize, i64, f64, Url, IpAddr);

impl Show for PathBuf {
    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Show for PathPrefix {
    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Show for HeaderValue {
    fn show(&self) -> String {
        String::from_utf8_lossy(self.as_bytes()).into_owned()
    }
}

impl Show for LogLevel {
    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Show for LogFormat {
    fn show(&self) -> String {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
        .to_owned()
    }
}

impl Show for StoreKind {
    fn show(&self) -> String {
        match self {
            Self::Sqlite => "sqlite",
            Self::Mongodb => "mongodb",
        }
        .to_owned()
    }
}

impl Show for Secret {
    fn show(&self) -> String {
        REDACTED.to_owned()
    }
}

impl Show for () {
    fn show(&self) -> String {
        "service".to_owned()
    }
}

impl<T: Show> Show for Vec<T> {
    fn show(&self) -> String {
        let parts: Vec<String> = self.iter().map(Show::show).collect();
        parts.join(", ")
    }
}
