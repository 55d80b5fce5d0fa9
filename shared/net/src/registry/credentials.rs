//! Logins at registries.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;

/// A login at one registry.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or access token.
    pub password: SecretString,
}

/// Docker's configuration cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerConfigError {
    /// Not JSON, or not of the expected shape.
    #[error("not a Docker configuration: {0}; it is written by docker login")]
    Malformed(String),
    /// A login is not base64 of `user:password`.
    #[error("the login for {registry} is damaged; repeat docker login {registry}")]
    DamagedLogin {
        /// The registry.
        registry: String,
    },
}

/// The logins in Docker's `config.json` (`$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`), by registry as
/// [`RegistryOptions`](super::RegistryOptions) wants them. Entries without a stored password are left out: those are
/// kept by credential helpers, which are programs of a desktop.
///
/// # Errors
/// When `text` is not such a file; the error never quotes its content.
pub fn from_docker_config(text: &str) -> Result<BTreeMap<String, Credentials>, DockerConfigError> {
    let config: Config = serde_json::from_str(text).map_err(|error| {
        DockerConfigError::Malformed(format!("line {}, column {}", error.line(), error.column()))
    })?;
    let mut logins = BTreeMap::new();
    for (server, entry) in config.auths {
        let registry = registry_of(&server);
        let Some(auth) = entry.auth.filter(|auth| !auth.is_empty()) else {
            continue;
        };
        let login = decode(&auth).ok_or_else(|| DockerConfigError::DamagedLogin {
            registry: registry.clone(),
        })?;
        logins.insert(registry, login);
    }
    Ok(logins)
}

// Neither of these can be printed: they hold passwords.
#[derive(serde::Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(serde::Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
}

fn decode(auth: &str) -> Option<Credentials> {
    let bytes = STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Credentials {
        username: username.to_owned(),
        // Docker pads with zero bytes in old files.
        password: password.trim_matches('\0').into(),
    })
}

/// Entries are keyed by host, or by a URL in old files; Docker Hub by the URL of its first API.
fn registry_of(server: &str) -> String {
    let bare = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    let host = bare.split_once('/').map_or(bare, |(host, _)| host);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn logins_are_found_by_registry() {
        // ada:se:cret
        let logins = from_docker_config(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YWRhOnNlOmNyZXQ="},"localhost:5000":{"auth":"YWRhOnNlOmNyZXQ="},"helped.example.org":{}},"credsStore":"x"}"#,
        )
        .unwrap();
        assert_eq!(
            Vec::from_iter(logins.keys()),
            ["docker.io", "localhost:5000"]
        );
        let login = logins.get("docker.io").unwrap();
        assert_eq!(
            (login.username.as_str(), login.password.expose_secret()),
            ("ada", "se:cret")
        );
        assert!(!format!("{logins:?}").contains("se:cret"));
        assert!(from_docker_config("{}").unwrap().is_empty());
    }

    #[test]
    fn damage_is_named_and_never_quoted() {
        let said = from_docker_config(r#"{"auths":{"r.io":{"auth":"c2VjcmV0"}}}"#)
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("r.io") && !said.contains("c2VjcmV0"),
            "{said}"
        );
        let said = from_docker_config(r#"{"auths":{"r.io":{"auth":{"c2VjcmV0":1}}}}"#)
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("line 1") && !said.contains("c2VjcmV0"),
            "{said}"
        );
    }
}
