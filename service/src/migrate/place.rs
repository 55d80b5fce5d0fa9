//! Where a store is, as the command line names it, and how it is opened for a copy.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cli::ConfigFile;
use crate::clock::{Clock, SystemClock};
use crate::config::Sources;
use crate::config::settings::mongo_settings;
use crate::data_dir::DataDir;
use crate::mongo::{MongoSettings, MongoStore};
use crate::sqlite::SqliteStore;
use crate::store_copy::StoreCopy;

use super::MigrateError;

/// A store's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A data directory, or the database file in one.
    Sqlite(PathBuf),
    /// The MongoDB database of the configuration.
    Configured,
    /// A MongoDB database that asks for no password.
    Mongo { url: String, database: String },
}

/// Whether a store must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// There is one to read.
    Existing,
    /// It is made if absent.
    Any,
}

/// A store, and what keeps others from it.
pub(super) struct OpenStore {
    pub(super) store: Box<dyn StoreCopy>,
    /// For people.
    pub(super) name: String,
    _data_dir: Option<DataDir>,
}

impl FromStr for Place {
    type Err = String;

    /// The errors show nothing of the text: it may hold a password.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            return if path.is_empty() {
                Err("sqlite: lacks its path; give sqlite:DIRECTORY or sqlite:FILE".to_owned())
            } else {
                Ok(Self::Sqlite(path.into()))
            };
        }
        if text == "mongodb" {
            return Ok(Self::Configured);
        }
        let Some(rest) = ["mongodb://", "mongodb+srv://"]
            .into_iter()
            .find_map(|scheme| text.strip_prefix(scheme))
        else {
            return Err(
                "it is no store; give sqlite:PATH, mongodb (the database of the configuration), or \
                 mongodb://HOST/DATABASE"
                    .to_owned(),
            );
        };
        if rest.contains('@') || rest.to_ascii_lowercase().contains("password") {
            return Err(
                "other users of this machine can read a password on a command line; set MongoDB.mongo_host, \
                 mongo_db, mongo_user and mongo_pwd in the configuration file or KBCTS_MONGO_PWD in the \
                 environment, and give mongodb instead"
                    .to_owned(),
            );
        }
        let database = rest
            .split_once('/')
            .map(|(_, path)| path.split('?').next().unwrap_or_default())
            .unwrap_or_default();
        if database.is_empty() {
            return Err("the database is missing; give mongodb://HOST/DATABASE".to_owned());
        }
        Ok(Self::Mongo {
            url: text.to_owned(),
            database: database.to_owned(),
        })
    }
}

impl Place {
    /// Opens two places that are not the same.
    pub(super) async fn open_both(
        from: &Self,
        to: &Self,
        config: &ConfigFile,
        target: Expect,
    ) -> Result<(OpenStore, OpenStore), MigrateError> {
        if from.is_same(to, config)? {
            return Err(MigrateError::Usage(
                "--from and --to: both are the same store; a data directory holds one".to_owned(),
            ));
        }
        Ok((
            from.open("--from", config, Expect::Existing).await?,
            to.open("--to", config, target).await?,
        ))
    }

    fn is_same(&self, other: &Self, config: &ConfigFile) -> Result<bool, MigrateError> {
        Ok(match (self, other) {
            (Self::Sqlite(one), Self::Sqlite(other)) => {
                let directory = |path: &Path| {
                    let (directory, _) = directory_and_file(path);
                    directory.canonicalize().unwrap_or(directory)
                };
                directory(one) == directory(other)
            }
            (Self::Sqlite(_), _) | (_, Self::Sqlite(_)) => false,
            (one, other) => {
                let (one, other) = (one.mongo(config)?, other.mongo(config)?);
                one.database == other.database && hosts(&one.host) == hosts(&other.host)
            }
        })
    }

    async fn open(
        &self,
        option: &str,
        config: &ConfigFile,
        expect: Expect,
    ) -> Result<OpenStore, MigrateError> {
        let Self::Sqlite(path) = self else {
            let settings = self.mongo(config)?;
            if expect == Expect::Existing && !MongoStore::exists(&settings).await? {
                return Err(MigrateError::Usage(format!(
                    "{option}: MongoDB at {} has no database {} with jobs; check its name",
                    hosts(&settings.host),
                    settings.database
                )));
            }
            let store = MongoStore::open(&settings).await?;
            refuse_while_used(option, &store).await?;
            return Ok(OpenStore {
                store: Box::new(store),
                name: format!(
                    "MongoDB database {} at {}",
                    settings.database,
                    hosts(&settings.host)
                ),
                _data_dir: None,
            });
        };
        let (directory, file) = directory_and_file(path);
        if expect == Expect::Existing && !file.is_file() {
            return Err(MigrateError::Usage(format!(
                "{option}: there is no database {}; give the data directory of a service, or the file",
                file.display()
            )));
        }
        let data_dir = DataDir::take(&directory)?;
        let name = format!("file {}", file.display());
        let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&file));
        let store = opened.await.map_err(MigrateError::runtime)??;
        Ok(OpenStore {
            store: Box::new(store),
            name,
            _data_dir: Some(data_dir),
        })
    }

    /// How the database is reached.
    fn mongo(&self, config: &ConfigFile) -> Result<MongoSettings, MigrateError> {
        match self {
            Self::Mongo { url, database } => Ok(MongoSettings {
                host: url.clone(),
                database: database.clone(),
                credentials: None,
                retry_writes: false,
            }),
            _ => mongo_settings(&Sources::of_process(config.config.as_deref()))
                .map_err(|faults| MigrateError::Usage(faults.to_string())),
        }
    }
}

/// A service that works on the database has leases; the existing one has none, and cannot be seen.
async fn refuse_while_used(option: &str, store: &MongoStore) -> Result<(), MigrateError> {
    let now = SystemClock.now();
    for lease in store.leases().await? {
        if let Some(until) = lease.until.filter(|until| *until > now) {
            return Err(MigrateError::InUse(format!(
                "{option}: a service works on this database: {} has the lease {:?}; stop every service \
                 over it. If it was killed, the lease lapses at {until}",
                lease.holder, lease.name
            )));
        }
    }
    Ok(())
}

/// The data directory and the database file that a path means.
fn directory_and_file(path: &Path) -> (PathBuf, PathBuf) {
    let is_file = path.is_file() || !path.is_dir() && path.extension().is_some();
    if !is_file {
        return (path.to_owned(), path.join("cts.sqlite"));
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    (directory, path.to_owned())
}

/// The servers of a connection string, which may also be a host and port alone.
fn hosts(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds_of_places_are_read() {
        assert_eq!(
            "sqlite:/var/lib/cts".parse(),
            Ok(Place::Sqlite("/var/lib/cts".into()))
        );
        assert_eq!("mongodb".parse(), Ok(Place::Configured));
        for url in [
            "mongodb://a,b:27018/cts",
            "mongodb://a/cts?replicaSet=x",
            "mongodb+srv://a/cts",
        ] {
            let place: Place = url.parse().unwrap();
            let database = "cts".to_owned();
            let url = url.to_owned();
            assert_eq!(place, Place::Mongo { url, database });
        }
    }

    #[test]
    fn what_is_no_place_is_refused_without_showing_it() {
        for text in [
            "",
            "sqlite:",
            "/var/lib/cts",
            "mongodb://canary/",
            "mongodb://canary?replicaSet=x",
            "mongodb://cts:canary@host/cts",
            "mongodb://host/cts?tlsCertificateKeyFilePassword=canary",
        ] {
            let error = text.parse::<Place>().unwrap_err();
            assert!(!error.contains("canary"), "{error}");
        }
        let error = "mongodb://u:p@h/d".parse::<Place>().unwrap_err();
        assert!(error.contains("KBCTS_MONGO_PWD"), "{error}");
    }

    #[test]
    fn hosts_are_found_in_every_form() {
        for url in [
            "db:1",
            "mongodb://db:1",
            "mongodb://u:p@db:1/x?y=z",
            "mongodb://db:1?y=z",
        ] {
            assert_eq!(hosts(url), "db:1", "{url}");
        }
    }

    #[test]
    fn a_path_is_a_data_directory_or_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cts.sqlite");
        let both = (directory.path().to_owned(), file.clone());
        assert_eq!(directory_and_file(directory.path()), both);
        assert_eq!(directory_and_file(&file), both);
        let new = directory.path().join("new");
        assert_eq!(
            directory_and_file(&new),
            (new.clone(), new.join("cts.sqlite"))
        );
        let (here, _) = directory_and_file(Path::new("cts.sqlite"));
        assert_eq!(here, Path::new("."));
    }
}
