//! Settings of the staging server: a table of them (contract config.md, "Refdata server", and ours), the file
//! and the environment they come from, and the values.
//!
//! A variable of the environment goes before the file, which stands in `KB_DEPLOYMENT_CONFIG`. Text is stripped;
//! what is blank counts as absent, so that a file made from a template may hold empty settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cts_net::secret::SecretSource;
use cts_net::tls::Verify;
use url::Url;

use super::auth::Roles;
use crate::config::{
    ConfigError, Lookup, Reader, S3Config, between, http_url, is_this_machine, non_empty,
};
use crate::refdata::StagingLimits;
use crate::telemetry::{LogFormat, LogLevel};
use crate::variables::{CTS_LOG_FORMAT, CTS_LOG_LEVEL, Variable};

/// The variable with the path of the file.
const CONFIG_FILE: &str = "KB_DEPLOYMENT_CONFIG";

/// A larger file is no configuration.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

const MIB: u64 = 1024 * 1024;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The table of the file.
    pub section: &'static str,
    /// Its key there.
    pub key: &'static str,
    /// Its variable of the environment.
    pub variable: &'static str,
    /// What it is where it is not set.
    pub default: Option<&'static str>,
    /// How the reader asks for it: both names, and what it should be.
    asked: Variable,
}

impl Setting {
    /// What it should be; completes the sentence "it should be ...".
    #[must_use]
    pub const fn meaning(&self) -> &'static str {
        self.asked.meaning
    }
}

macro_rules! settings {
    ($($name:ident: $section:literal, $key:literal, $variable:literal, $default:expr, $secret:literal,
        $meaning:literal;)*) => {
        $(const $name: Setting = Setting {
            section: $section,
            key: $key,
            variable: $variable,
            default: $default,
            asked: Variable {
                name: concat!($section, ".", $key, " (", $variable, ")"),
                meaning: $meaning,
                secret: $secret,
            },
        };)*

        /// All settings, in the order of the documentation.
        pub const SETTINGS: &[Setting] = &[$($name),*];
    };
}

settings! {
    AUTH_URL: "Authentication", "url", "KBCTS_KBASE_AUTH2_URL",
        Some("https://ci.kbase.us/services/auth"), false,
        "the root URL of KBase auth2, http or https";
    ADMIN_ROLES: "Authentication", "admin_roles_full", "KBCTS_KBASE_AUTH2_ADMIN_ROLES", None, false,
        "custom roles of auth2, separated by commas, each of which makes a full administrator";
    SERVICE_ROLE: "Authentication", "cts_role", "KBCTS_TASK_SERVICE_ROLE",
        Some("CDM_TASK_SERVICE_SERVER"), false,
        "the custom role of auth2 that a service needs to ask for stagings";
    S3_URL: "S3", "url", "KBCTS_S3_URL", None, false,
        "the URL of the S3 store, http or https";
    S3_ACCESS_KEY: "S3", "access_key", "KBCTS_S3_ACCESS_KEY", None, false,
        "the S3 access key id";
    S3_SECRET: "S3", "access_secret", "KBCTS_S3_ACCESS_SECRET", None, true,
        "the S3 secret key; better a file, S3.access_secret_path";
    S3_SECRET_PATH: "S3", "access_secret_path", "KBCTS_S3_ACCESS_SECRET_PATH", None, false,
        "a file with the S3 secret key; goes before S3.access_secret";
    S3_INSECURE: "S3", "allow_insecure", "KBCTS_S3_ALLOW_INSECURE", Some("false"), false,
        "true to skip the check of the S3 store's certificate, else false";
    SERVICE_URL: "CTS", "cts_root_url", "KBCTS_SERVICE_ROOT_URL",
        Some("https://ci.kbase.us/services/cts"), false,
        "the root URL of the CDM Task Service, http or https";
    TOKEN: "CTS", "cts_refdata_token", "KBCTS_REFDATA_SERVICE_TOKEN", None, true,
        "a token that the service knows as a refdata service's; better a file, CTS.cts_refdata_token_path";
    TOKEN_PATH: "CTS", "cts_refdata_token_path", "KBCTS_REFDATA_SERVICE_TOKEN_PATH", None, false,
        "a file with that token, read again when it is refused; goes before CTS.cts_refdata_token";
    LOCAL_PATH: "Refdata", "local_path", "KBCTS_REFDATA_LOCAL_PATH", None, false,
        "the directory of the staged data, an absolute path";
    METADATA_PATH: "Refdata", "metadata_path", "KBCTS_REFDATA_METADATA_PATH", None, false,
        "the directory of listings, locks and notes, an absolute path";
    CONCURRENCY: "Refdata", "concurrency", "KBCTS_REFDATA_CONCURRENCY", Some("2"), false,
        "how many items are staged at the same time, 1 to 64";
    MAX_ENTRIES: "Refdata", "max_entries", "KBCTS_REFDATA_MAX_ENTRIES", Some("1000000"), false,
        "the most files, directories and links of one item, 1 to 1000000000";
    MAX_EXPANSION: "Refdata", "max_expansion", "KBCTS_REFDATA_MAX_EXPANSION", Some("200"), false,
        "the most unpacked bytes per byte of an archive, once more than 1 GiB was unpacked, 1 to 1000000";
    MAX_UNPACKED_GIB: "Refdata", "max_unpacked_gib", "KBCTS_REFDATA_MAX_UNPACKED_GIB", Some("4096"), false,
        "the most unpacked GiB of one item, 1 to 1048576";
    RESERVE_MIB: "Refdata", "reserve_mib", "KBCTS_REFDATA_RESERVE_MIB", Some("1024"), false,
        "MiB of the file system that stay free, 0 to 1073741824";
    HOST: "Server", "host", "KBCTS_HOST", Some("0.0.0.0"), false,
        "the IP address that the server listens on";
    PORT: "Server", "port", "KBCTS_PORT", Some("5000"), false,
        "the port that the server listens on, 0 to 65535";
    ROOT_PATH: "Service", "root_path", "KBCTS_SERVICE_ROOT_PATH", None, false,
        "the prefix that a reverse proxy takes away; taken for compatibility, nothing depends on it";
}

/// The values.
#[derive(Debug)]
pub struct RefdataServerConfig {
    /// Root of KBase auth2.
    pub auth2: Url,
    /// Who may do what.
    pub roles: Roles,
    /// The object store.
    pub s3: S3Config,
    /// The service's root, without a slash at the end.
    pub service: Url,
    /// The token that the service knows this server by.
    pub token: Arc<SecretSource>,
    /// Directory of the staged data.
    pub root: PathBuf,
    /// Directory of listings, locks and notes.
    pub metadata: PathBuf,
    /// Items staged at the same time.
    pub concurrency: NonZeroUsize,
    /// Bounds of each.
    pub limits: StagingLimits,
    /// Where the server listens.
    pub listen: SocketAddr,
    /// For the log: every setting and its value, secrets redacted.
    pub description: Vec<(&'static str, String)>,
    /// For the log: what in the file is not understood.
    pub unknown: Vec<String>,
}

impl RefdataServerConfig {
    /// Reads the settings from the environment, the file that it names, and the defaults. Reads the token's file;
    /// sends nothing.
    ///
    /// # Errors
    /// Every setting that is missing or wrong, one line each.
    pub fn read(environment: Lookup<'_>) -> Result<Self, Vec<String>> {
        let file = match stripped(environment(CONFIG_FILE)) {
            Some(path) => SettingsFile::load(Path::new(&path)).map_err(|fault| vec![fault])?,
            None => SettingsFile::default(),
        };
        let lookup = |name: &str| {
            let Some(setting) = SETTINGS.iter().find(|setting| setting.asked.name == name) else {
                return stripped(environment(name));
            };
            stripped(environment(setting.variable))
                .or_else(|| file.get(setting))
                .or_else(|| setting.default.map(str::to_owned))
        };
        let mut reader = Reader::new(&lookup);
        let values = Values::read(&mut reader);
        let errors: Vec<String> = reader.errors.iter().map(ToString::to_string).collect();
        match values {
            Some(values) if errors.is_empty() => Ok(Self {
                description: describe(&lookup),
                unknown: file.unknown,
                ..values.0
            }),
            _ => Err(errors),
        }
    }

    /// What is allowed and should not stay: each in a sentence for the log.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.s3.verify == Verify::Nothing {
            warnings.push(format!(
                "{} is true: whoever can come between can read and change the data; give the store a certificate \
                 that SSL_CERT_FILE can verify",
                S3_INSECURE.asked.name
            ));
        }
        for (url, setting) in [(&self.service, SERVICE_URL), (&self.auth2, AUTH_URL)] {
            if url.scheme() == "http" && !is_this_machine(url) {
                warnings.push(format!(
                    "{} is not https: tokens travel unencrypted",
                    setting.asked.name
                ));
            }
        }
        if self.roles.full_admin.is_empty() {
            warnings.push(format!(
                "{} is not set: nobody can look at the state of stagings",
                ADMIN_ROLES.asked.name
            ));
        }
        warnings
    }
}

/// A configuration without what is told about it.
struct Values(RefdataServerConfig);

impl Values {
    /// Everything is read before anything is given up, so that all faults are found.
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let auth2 = reader.required(AUTH_URL.asked, http_url);
        let full_admin = reader.optional(ADMIN_ROLES.asked, |text| Some(comma_list(text)));
        let service_role = reader.required(SERVICE_ROLE.asked, non_empty);
        let s3_url = reader.required(S3_URL.asked, http_url);
        let access_key = reader.required(S3_ACCESS_KEY.asked, non_empty);
        let secret = reader.secret(S3_SECRET_PATH.asked, S3_SECRET.asked);
        let insecure = reader.required(S3_INSECURE.asked, |text| Some(text == "true"));
        let service = reader.required(SERVICE_URL.asked, http_url);
        let token = reader.secret(TOKEN_PATH.asked, TOKEN.asked);
        let token = token.and_then(|origin| match origin.load() {
            Ok(source) => Some(source),
            Err(error) => {
                let (name, cause) = (TOKEN_PATH.asked.name, error.to_string());
                reader.errors.push(ConfigError::SecretFile { name, cause });
                None
            }
        });
        let root = reader.required(LOCAL_PATH.asked, absolute);
        let metadata = reader.required(METADATA_PATH.asked, absolute);
        let concurrency = reader.required(CONCURRENCY.asked, |text| {
            between(text, 1, 64).and_then(NonZeroUsize::new)
        });
        let max_entries =
            reader.required(MAX_ENTRIES.asked, |text| between(text, 1, 1_000_000_000));
        let max_expansion =
            reader.required(MAX_EXPANSION.asked, |text| between(text, 1, 1_000_000));
        let max_unpacked_gib: Option<u64> =
            reader.required(MAX_UNPACKED_GIB.asked, |text| between(text, 1, 1_048_576));
        let reserve_mib: Option<u64> =
            reader.required(RESERVE_MIB.asked, |text| between(text, 0, 1_073_741_824));
        let host = reader.required(HOST.asked, |text| text.parse::<IpAddr>().ok());
        let port = reader.required(PORT.asked, |text| text.parse::<u16>().ok());
        reader.optional(CTS_LOG_LEVEL, |text| text.parse::<LogLevel>().ok());
        reader.optional(CTS_LOG_FORMAT, |text| text.parse::<LogFormat>().ok());
        let verify = if insecure? {
            Verify::Nothing
        } else {
            Verify::Certificates
        };
        Some(Self(RefdataServerConfig {
            auth2: auth2?,
            roles: Roles {
                full_admin: full_admin.unwrap_or_default(),
                service: service_role?,
            },
            s3: S3Config {
                url: s3_url?,
                access_key: access_key?,
                secret: secret?,
                verify,
                sign_payload: None,
            },
            service: service?,
            token: Arc::new(token?),
            root: root?,
            metadata: metadata?,
            concurrency: concurrency?,
            limits: StagingLimits {
                max_entries: max_entries?,
                max_expansion: max_expansion?,
                max_unpacked_bytes: max_unpacked_gib? * 1024 * MIB,
                reserve_bytes: reserve_mib? * MIB,
                ..StagingLimits::default()
            },
            listen: SocketAddr::new(host.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port?),
            description: Vec::new(),
            unknown: Vec::new(),
        }))
    }
}

fn describe(lookup: Lookup<'_>) -> Vec<(&'static str, String)> {
    let value = |setting: &Setting| match lookup(setting.asked.name) {
        None => "not set".to_owned(),
        Some(_) if setting.asked.secret => "[redacted]".to_owned(),
        Some(value) => value,
    };
    SETTINGS
        .iter()
        .map(|setting| (setting.asked.name, value(setting)))
        .collect()
}

/// Blank counts as absent.
fn stripped(text: Option<String>) -> Option<String> {
    text.map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
}

fn comma_list(text: &str) -> BTreeSet<String> {
    text.split(',')
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect()
}

fn absolute(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    path.is_absolute().then_some(path)
}

/// What a TOML file says.
#[derive(Debug, Default)]
struct SettingsFile {
    values: BTreeMap<(String, String), String>,
    unknown: Vec<String>,
}

impl SettingsFile {
    fn load(path: &Path) -> Result<Self, String> {
        let fault = |cause: String| {
            format!(
                "{CONFIG_FILE} names {}, which is no usable file: {cause}",
                path.display()
            )
        };
        let metadata = fs::metadata(path).map_err(|error| fault(error.to_string()))?;
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            return Err(fault(format!(
                "it is not a file of at most {MAX_FILE_BYTES} bytes"
            )));
        }
        let text = fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        // The parser's own words quote the line, which may hold a secret.
        Self::parse(&text).map_err(|error| fault(format!("it is not TOML: {}", error.message())))
    }

    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        let mut file = Self::default();
        for (section, value) in text.parse::<toml::Table>()? {
            let toml::Value::Table(table) = value else {
                file.unknown.push(section);
                continue;
            };
            for (key, value) in table {
                let is_known = SETTINGS
                    .iter()
                    .any(|setting| setting.section == section && setting.key == key);
                if is_known {
                    let text = match value {
                        toml::Value::String(text) => text,
                        // The reader says what it should be.
                        other => other.to_string(),
                    };
                    file.values.insert((section.clone(), key), text);
                } else {
                    file.unknown.push(format!("{section}.{key}"));
                }
            }
        }
        Ok(file)
    }

    fn get(&self, setting: &Setting) -> Option<String> {
        let place = (setting.section.to_owned(), setting.key.to_owned());
        stripped(self.values.get(&place).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has no default.
    const NEEDED: [(&str, &str); 6] = [
        ("KBCTS_S3_URL", "http://s3.example.org:9000/"),
        ("KBCTS_S3_ACCESS_KEY", " key "),
        ("KBCTS_S3_ACCESS_SECRET", "s3cret"),
        ("KBCTS_REFDATA_SERVICE_TOKEN", "t0ken"),
        ("KBCTS_REFDATA_LOCAL_PATH", "/refdata"),
        ("KBCTS_REFDATA_METADATA_PATH", "/refdata-meta"),
    ];

    fn read(given: &[(&str, &str)]) -> Result<RefdataServerConfig, Vec<String>> {
        let given: BTreeMap<&str, &str> = given.iter().copied().collect();
        RefdataServerConfig::read(&|name| given.get(name).map(|value| (*value).to_owned()))
    }

    fn read_with(more: &[(&str, &str)]) -> Result<RefdataServerConfig, Vec<String>> {
        read(&[&NEEDED[..], more].concat())
    }

    #[test]
    fn the_defaults_are_the_contracts() {
        let config = read_with(&[]).unwrap();
        assert_eq!(config.auth2.as_str(), "https://ci.kbase.us/services/auth");
        assert_eq!(config.service.as_str(), "https://ci.kbase.us/services/cts");
        assert_eq!(config.roles.service, "CDM_TASK_SERVICE_SERVER");
        assert!(config.roles.full_admin.is_empty());
        assert_eq!(config.listen.to_string(), "0.0.0.0:5000");
        assert_eq!(config.concurrency.get(), 2);
        assert_eq!(config.limits, StagingLimits::default());
        assert_eq!(config.s3.access_key, "key");
        assert_eq!(config.s3.verify, Verify::Certificates);
    }

    #[test]
    fn everything_that_is_missing_or_wrong_is_said_at_once() {
        let errors = read(&[
            ("KBCTS_KBASE_AUTH2_URL", "ftp://x"),
            ("KBCTS_S3_ALLOW_INSECURE", "yes"),
            ("KBCTS_REFDATA_LOCAL_PATH", "relative"),
            ("KBCTS_REFDATA_CONCURRENCY", "0"),
            ("KBCTS_PORT", "99999"),
            ("KBCTS_S3_ACCESS_KEY", "  "),
        ])
        .unwrap_err()
        .join("\n");
        for setting in [
            "Authentication.url (KBCTS_KBASE_AUTH2_URL) is \"ftp://x\"",
            "S3.url (KBCTS_S3_URL) is not set",
            "S3.access_key (KBCTS_S3_ACCESS_KEY) is not set",
            "neither S3.access_secret_path (KBCTS_S3_ACCESS_SECRET_PATH) nor",
            "neither CTS.cts_refdata_token_path",
            "Refdata.local_path (KBCTS_REFDATA_LOCAL_PATH) is \"relative\"",
            "Refdata.metadata_path (KBCTS_REFDATA_METADATA_PATH) is not set",
            "Refdata.concurrency (KBCTS_REFDATA_CONCURRENCY) is \"0\"",
            "Server.port (KBCTS_PORT) is \"99999\"",
        ] {
            assert!(errors.contains(setting), "{setting}\n{errors}");
        }
    }

    #[test]
    fn the_environment_goes_before_the_file_and_blank_is_absent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deploy.cfg");
        fs::write(
            &path,
            "[Authentication]\nurl = ' https://auth.example.org '\nadmin_roles_full = ' A, ,B '\ncts_role = ''\n\
             [S3]\nurl = 'https://file.example.org'\nallow_insecure = 'true'\n\
             [Refdata]\nconcurrency = 5\nmax_unpacked_gib = 1\nspare = 1\n\
             [Service]\nroot_path = ''\n[Other]\nx = 1\n",
        )
        .unwrap();
        let path = path.to_str().unwrap();
        let config =
            read_with(&[(CONFIG_FILE, path), ("KBCTS_REFDATA_CONCURRENCY", "  ")]).unwrap();
        assert_eq!(config.auth2.as_str(), "https://auth.example.org/");
        assert_eq!(
            config.roles.full_admin,
            ["A", "B"].map(str::to_owned).into()
        );
        assert_eq!(config.roles.service, "CDM_TASK_SERVICE_SERVER");
        assert_eq!(config.s3.url.as_str(), "http://s3.example.org:9000/");
        assert_eq!(config.s3.verify, Verify::Nothing);
        assert_eq!(config.concurrency.get(), 5);
        assert_eq!(config.limits.max_unpacked_bytes, 1024 * MIB);
        assert_eq!(config.unknown, ["Other.x", "Refdata.spare"]);
        assert_eq!(config.warnings().len(), 1, "the store's certificate");
    }

    #[test]
    fn tokens_on_the_network_in_the_clear_are_warned_about() {
        let warned = |url| {
            let config = read_with(&[
                ("KBCTS_KBASE_AUTH2_ADMIN_ROLES", "A"),
                ("KBCTS_SERVICE_ROOT_URL", url),
            ]);
            config.unwrap().warnings().join("\n")
        };
        assert!(warned("http://cts.example.org").contains("CTS.cts_root_url"));
        assert_eq!(warned("http://127.0.0.1:5000"), "");
        assert_eq!(warned("https://cts.example.org"), "");
    }

    #[test]
    fn no_secret_is_shown() {
        let config = read_with(&[]).unwrap();
        let shown = format!("{config:?}");
        assert!(
            !shown.contains("s3cret") && !shown.contains("t0ken"),
            "{shown}"
        );
        let of = |name: &str| {
            let found = config
                .description
                .iter()
                .find(|(shown, _)| shown.contains(name));
            found.unwrap().1.clone()
        };
        assert_eq!(of("KBCTS_S3_ACCESS_SECRET)"), "[redacted]");
        assert_eq!(of("KBCTS_REFDATA_SERVICE_TOKEN)"), "[redacted]");
        assert_eq!(of("KBCTS_REFDATA_LOCAL_PATH"), "/refdata");
    }

    #[test]
    fn secrets_may_stand_in_files() {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        fs::write(&token, "from-file\n").unwrap();
        let path = token.to_str().unwrap();
        let config = read_with(&[("KBCTS_REFDATA_SERVICE_TOKEN_PATH", path)]).unwrap();
        assert_eq!(config.token.path(), Some(token.as_path()));
        let gone = directory.path().join("gone");
        let gone = gone.to_str().unwrap();
        let errors = read_with(&[("KBCTS_REFDATA_SERVICE_TOKEN_PATH", gone)]).unwrap_err();
        assert!(
            errors[0].starts_with("CTS.cts_refdata_token_path"),
            "{errors:?}"
        );
    }

    #[test]
    fn a_broken_file_is_said_without_its_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deploy.cfg");
        fs::write(&path, "[S3]\naccess_secret = 's3cret\n").unwrap();
        let errors = read_with(&[(CONFIG_FILE, path.to_str().unwrap())]).unwrap_err();
        assert!(
            errors[0].contains("not TOML") && !errors[0].contains("s3cret"),
            "{errors:?}"
        );
    }
}
