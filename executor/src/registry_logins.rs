//! Logins at registries, from where `docker login` keeps them: `config.json` in `DOCKER_CONFIG`, else in
//! `~/.docker`. The existing executor's Docker library reads the same file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cts_net::registry::Credentials;
use cts_net::registry::credentials::from_docker_config;

use crate::config::Lookup;
use crate::variables::DOCKER_CONFIG;

/// A configuration with a hundred logins has 20 KiB.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// The directory with Docker's `config.json`, if any is set or follows from `HOME`.
#[must_use]
pub fn directory(lookup: Lookup<'_>) -> Option<PathBuf> {
    let set = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
    set(DOCKER_CONFIG.name)
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".docker")))
}

/// The logins by registry; none where there is no such file. A file that cannot be used is logged, not an
/// error: most images need no login, and the registry's refusal names the image that does.
#[must_use]
pub fn load(directory: Option<&Path>) -> BTreeMap<String, Credentials> {
    let Some(path) = directory.map(|directory| directory.join("config.json")) else {
        return BTreeMap::new();
    };
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
        Err(error) => {
            tracing::warn!(
                "the logins of registries in {} are not used: {error}",
                path.display()
            );
            return BTreeMap::new();
        }
    };
    from_docker_config(&text).unwrap_or_else(|error| {
        tracing::warn!(
            "the logins of registries in {} are not used: {error}",
            path.display()
        );
        BTreeMap::new()
    })
}

fn read(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(MAX_CONFIG_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_config_goes_before_home() {
        let both = |name: &str| match name {
            "DOCKER_CONFIG" => Some("/etc/docker-logins".to_owned()),
            "HOME" => Some("/home/me".to_owned()),
            _ => None,
        };
        assert_eq!(directory(&both), Some("/etc/docker-logins".into()));
        let home = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        assert_eq!(directory(&home), Some("/home/me/.docker".into()));
        assert_eq!(directory(&|_| None), None);
    }

    #[test]
    fn a_file_that_is_missing_or_damaged_means_no_logins() {
        let directory = tempfile::tempdir().unwrap();
        assert!(load(None).is_empty());
        assert!(load(Some(directory.path())).is_empty());
        std::fs::write(directory.path().join("config.json"), "{").unwrap();
        assert!(load(Some(directory.path())).is_empty());
        // user:secret
        let good = r#"{"auths": {"registry.example.org": {"auth": "dXNlcjpzZWNyZXQ="}}}"#;
        std::fs::write(directory.path().join("config.json"), good).unwrap();
        let logins = load(Some(directory.path()));
        assert_eq!(logins["registry.example.org"].username, "user");
        assert!(!format!("{logins:?}").contains("secret"));
    }
}
