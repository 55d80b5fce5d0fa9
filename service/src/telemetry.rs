//! Logs: to standard error, as text for people or as one JSON object a line.

use std::str::FromStr;

use tracing_subscriber::filter::LevelFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Least level that is logged, by the names operators of the existing system use. Executors of the
/// `local` site get it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// `DEBUG`
    Debug,
    /// `INFO`
    Info,
    /// `WARNING`
    Warning,
    /// `ERROR`
    Error,
}

/// The text is no log level.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0:?} is not a log level; give DEBUG, INFO, WARNING or ERROR")]
pub struct UnknownLogLevel(String);

impl FromStr for LogLevel {
    type Err = UnknownLogLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLogLevel> {
        match text.trim().to_ascii_uppercase().as_str() {
            "DEBUG" | "NOTSET" | "TRACE" => Ok(Self::Debug),
            "INFO" => Ok(Self::Info),
            "WARNING" | "WARN" => Ok(Self::Warning),
            "ERROR" | "CRITICAL" | "FATAL" => Ok(Self::Error),
            _ => Err(UnknownLogLevel(text.to_owned())),
        }
    }
}

impl LogLevel {
    /// The name as `CTS_LOG_LEVEL` takes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }

    const fn filter(self) -> LevelFilter {
        match self {
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warning => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
        }
    }
}

/// Starts logging. Later calls change nothing.
pub fn init(format: LogFormat, level: LogLevel) {
    use std::io::IsTerminal;
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;

    // Libraries below warnings only: their details are for their authors.
    let filter = Targets::new()
        .with_default(level.filter().min(LevelFilter::WARN))
        .with_target("cts_service", level.filter())
        .with_target("cts_net", level.filter())
        // It has a line for every try; the sender says what there is to say.
        .with_target("rskafka", LevelFilter::OFF);
    let lines = match format {
        LogFormat::Json => json_lines(std::io::stderr).boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_target(false)
            .with_ansi(
                std::io::stderr().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            )
            .boxed(),
    };
    let _already_started = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init();
}

/// One JSON object a line: the event's fields, and in `span` those of the request it belongs to.
pub fn json_lines<S, W>(writer: W) -> impl tracing_subscriber::Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .json()
        .flatten_event(true)
        .with_span_list(false)
}
