//! OCI image registries: one open, one that asks for a name and a password.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::component::{Component, cannot_start, fresh_data_dir, stop_over_data};
use super::error::TestbedError;
use super::layout::Layout;
use super::packages::Packages;
use super::ports::free_ports;
use super::process::{self, ProcessId};

/// Name and password of the registry with authentication. Not a secret: it listens on loopback
/// and holds test images.
pub const USER: &str = "cts";
/// See [`USER`].
pub const PASSWORD: &str = "testbed-password";
/// bcrypt of [`PASSWORD`], the only kind of hash the registry takes.
const PASSWORD_HASH: &str = "$2b$04$coe7OfbAdlr4yDs2rLWOneSExKE.OeUGgrsgh9FU2ELWfzzyajXY2";

const GRACE: Duration = Duration::from_secs(5);

/// A `docker-registry` process on a loopback port.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Registry<const AUTH: bool> {
    /// Host and port: the first part of an image name.
    pub address: String,
    /// Name to log in with, where the registry asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    process: Option<ProcessId>,
    #[serde(skip)]
    program: PathBuf,
}

/// The registry that anyone may use.
pub type OpenRegistry = Registry<false>;
/// The registry that asks for a name and a password.
pub type AuthRegistry = Registry<true>;

impl<const AUTH: bool> Registry<AUTH> {
    fn configuration(port: u16, data: &Path) -> serde_json::Value {
        let mut configuration = serde_json::json!({
            "version": "0.1",
            "log": { "level": "info", "accesslog": { "disabled": true } },
            "storage": {
                "filesystem": { "rootdirectory": data.join("images") },
                "delete": { "enabled": true },
            },
            "http": { "addr": format!("127.0.0.1:{port}"), "secret": "testbed" },
        });
        if AUTH {
            configuration["auth"] = serde_json::json!({
                "htpasswd": { "realm": "cts-testbed", "path": data.join("htpasswd") },
            });
        }
        configuration
    }
}

impl<const AUTH: bool> Component for Registry<AUTH> {
    const NAME: &'static str = if AUTH { "registry-auth" } else { "registry" };
    const READY_WITHIN: Duration = Duration::from_secs(30);

    async fn ensure_installed(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        self.program = Packages::new(layout, Self::NAME)
            .debian_program(
                "docker-registry",
                "docker-registry",
                "images are pulled from it",
            )
            .await?;
        Ok(())
    }

    async fn start(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        let [port] = free_ports(Self::NAME)?;
        let data = fresh_data_dir(Self::NAME, layout)?;
        let file = data.join("config.yml");
        // JSON is YAML.
        std::fs::write(&file, Self::configuration(port, &data).to_string())
            .and_then(|()| {
                std::fs::write(data.join("htpasswd"), format!("{USER}:{PASSWORD_HASH}\n"))
            })
            .map_err(|error| cannot_start(Self::NAME, layout, &error))?;
        let mut command = Command::new(&self.program);
        command
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none");
        let process = process::spawn_daemon(&mut command, &layout.log(Self::NAME))
            .map_err(|error| cannot_start(Self::NAME, layout, &error))?;
        self.process = Some(process);
        self.address = format!("127.0.0.1:{port}");
        self.user = AUTH.then(|| USER.to_owned());
        self.password = AUTH.then(|| PASSWORD.to_owned());
        Ok(())
    }

    async fn ready(&self) -> Result<(), String> {
        let mut request = super::http::client()?.get(format!("http://{}/v2/", self.address));
        if let Some(user) = &self.user {
            request = request.basic_auth(user, self.password.as_ref());
        }
        let response = request
            .send()
            .await
            .map_err(|error| super::http::reason(&error))?;
        let status = response.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("GET /v2/ answers {status}"))
        }
    }

    async fn stop(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        let is_ours = |program: &OsStr| program == "docker-registry";
        stop_over_data(Self::NAME, layout, self.process.take(), is_ours, GRACE).await?;
        *self = Self::default();
        Ok(())
    }

    fn process(&self) -> Option<&ProcessId> {
        self.process.as_ref()
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}
