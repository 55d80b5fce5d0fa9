//! Staging an archive of reference data: the executor in one pass, beside the shell's way in several.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cts_tests::markdown::Table;
use cts_tests::testbed::s3::S3Server;

use crate::measure::{Usage, measure};
use crate::programs::empty_dir;
use crate::progress;
use crate::statistics::Spread;
use crate::workload::MIB;

const BUCKET: &str = "cts-bench-refdata";
const FILES: u32 = 2000;

/// Letters of proteins: what reference data is made of, and about as compressible.
const LETTERS: &[u8; 20] = b"ACDEFGHIKLMNPQRSTVWY";
/// Letters on a line of a FASTA file.
const LINE: usize = 60;
/// Files are pieces of this much text: gzip looks back 32 KiB, so to it each is new.
const TEXT_BYTES: usize = 64 * 1024 * 1024;

/// What is measured.
#[derive(Debug)]
pub(crate) struct Staging<'a> {
    /// The static executor.
    pub(crate) program: PathBuf,
    pub(crate) s3: &'a S3Server,
    /// For the files.
    pub(crate) dir: &'a Path,
    /// Counted runs of each.
    pub(crate) runs: u32,
    /// About how large the archive is.
    pub(crate) archive_mib: u64,
}

/// What is measured side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Gunzip,
    CurlAndTar,
    CurlTarAndSums,
    Executor,
}

impl Way {
    const ALL: [Self; 4] = [
        Self::Gunzip,
        Self::CurlAndTar,
        Self::CurlTarAndSums,
        Self::Executor,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Gunzip => "`gzip -dc` of the file on disk, to nowhere",
            Self::CurlAndTar => "`curl \\| tar xz`",
            Self::CurlTarAndSums => "`curl \\| tar xz`, then `md5sum` of every file",
            Self::Executor => "`cts-executor refdata stage`",
        }
    }
}

/// An archive in the store.
struct Archive {
    file: PathBuf,
    bytes: u64,
    unpacked_bytes: u64,
    checksum: String,
    url: String,
}

impl Staging<'_> {
    /// Measures; returns a heading and a table.
    ///
    /// # Errors
    /// When a program fails.
    pub(crate) async fn measure(&self) -> Result<String, Box<dyn Error>> {
        let archive = self.make_archive().await?;
        let mut usages = [const { Vec::<Usage>::new() }; 4];
        // Round 0 warms caches and is not counted.
        for round in 0..=self.runs {
            for (way, usages) in Way::ALL.into_iter().zip(&mut usages) {
                let target = self.dir.join("staged");
                empty_dir(&target)?;
                rustix::fs::sync();
                let mut command = self.command(way, &archive, &target);
                let usage = tokio::task::spawn_blocking(move || measure(&mut command)).await??;
                progress(&format!(
                    "staging, round {round}: {} {:.2} s, {:.2} CPU s",
                    way.name(),
                    usage.wall.as_secs_f64(),
                    usage.cpu.as_secs_f64()
                ));
                if round > 0 {
                    usages.push(usage);
                }
                remove_tree(&target)?;
            }
        }
        let mut table = Table::new(&["staging", "wall s", "CPU s", "peak MiB"]);
        for (way, usages) in Way::ALL.into_iter().zip(&usages) {
            table.row(&[
                way.name().to_owned(),
                Spread::secs(usages.iter().map(|usage| usage.wall)).to_string(),
                Spread::secs(usages.iter().map(|usage| usage.cpu)).to_string(),
                // Of a pipeline only the shell itself would be seen.
                if way == Way::Executor {
                    Spread::mib(usages.iter().map(|usage| usage.peak_bytes)).to_string()
                } else {
                    String::new()
                },
            ]);
        }
        self.s3.client()?.remove_bucket(BUCKET).await?;
        std::fs::remove_file(&archive.file)?;
        Ok(format!(
            "## Staging reference data: a `.tar.gz` of {} MiB, {FILES} files of {} MiB together\n\n{table}",
            archive.bytes / MIB,
            archive.unpacked_bytes / MIB
        ))
    }

    async fn make_archive(&self) -> Result<Archive, Box<dyn Error>> {
        progress(&format!("making an archive of {} MiB", self.archive_mib));
        let tree = self.dir.join("tree");
        empty_dir(&tree)?;
        // Quickly compressed, twenty letters take 5 bits and a little each.
        let file_bytes = usize::try_from(self.archive_mib * MIB / u64::from(FILES) * 8 / 5)?;
        make_files(&tree, file_bytes)?;
        let file = self.dir.join("archive.tar.gz");
        let made = Command::new("tar")
            .args(["--use-compress-program", "gzip -1", "-C"])
            .arg(&tree)
            .arg("-cf")
            .arg(&file)
            .arg(".")
            .status()?;
        if !made.success() {
            return Err(format!("tar failed: {made}").into());
        }
        std::fs::remove_dir_all(&tree)?;
        let store = self.s3.client()?;
        store.create_bucket(BUCKET).await?;
        let object = object();
        let put = Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--upload-file"])
            .arg(&file)
            .arg(store.presigned_put(&object).await?)
            .status()?;
        if !put.success() {
            return Err(format!("curl failed to store the archive: {put}").into());
        }
        rustix::fs::sync();
        Ok(Archive {
            bytes: file.metadata()?.len(),
            unpacked_bytes: u64::from(FILES) * u64::try_from(file_bytes)?,
            checksum: checksum(&file)?,
            url: store.presigned_get(&object).await?,
            file,
        })
    }

    fn command(&self, way: Way, archive: &Archive, target: &Path) -> Command {
        let mut command = match way {
            Way::Gunzip => {
                let mut command = Command::new("gzip");
                command.arg("-dc").arg(&archive.file).stdout(Stdio::null());
                command
            }
            Way::CurlAndTar => shell("curl -fsS \"$URL\" | tar xz -C \"$DIR\" && sync -f \"$DIR\""),
            Way::CurlTarAndSums => shell(
                "curl -fsS \"$URL\" | tar xz -C \"$DIR\" && \
                 find \"$DIR\" -type f -exec md5sum {} + > \"$DIR/sums\" && sync -f \"$DIR\"",
            ),
            Way::Executor => {
                let mut command = Command::new(&self.program);
                command
                    .args(["--log-level", "WARNING", "refdata", "stage", "--root"])
                    .arg(target)
                    .args(["--id", "bench", "--unpack", "--object", &object()])
                    .args(["--crc64nvme", &archive.checksum])
                    .env("S3_URL", &self.s3.url)
                    .env("S3_ACCESS_KEY", &self.s3.access_key)
                    .env("S3_SECRET", &self.s3.secret);
                command
            }
        };
        command
            .env("URL", &archive.url)
            .env("DIR", target)
            .stdin(Stdio::null());
        command
    }
}

fn object() -> String {
    format!("{BUCKET}/archive.tar.gz")
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// `FILES` files of random text in directories of a hundred.
fn make_files(tree: &Path, file_bytes: usize) -> std::io::Result<()> {
    let mut text = vec![0; TEXT_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut text)?;
    for (index, byte) in text.iter_mut().enumerate() {
        let letter = LETTERS[usize::from(*byte) % LETTERS.len()];
        *byte = if index % LINE == LINE - 1 {
            b'\n'
        } else {
            letter
        };
    }
    for number in 0..FILES {
        let dir = tree.join(format!("part-{:02}", number / 100));
        std::fs::create_dir_all(&dir)?;
        let mut file = File::create(dir.join(format!("{number:04}.faa")))?;
        let start = usize::try_from(number).unwrap_or(0) * 31_337 % (TEXT_BYTES - file_bytes);
        let piece = text.get(start..start + file_bytes).unwrap_or(&text);
        file.write_all(piece)?;
    }
    Ok(())
}

/// CRC64NVME of a file, by an implementation that is not the executor's.
fn checksum(path: &Path) -> std::io::Result<String> {
    let began = Instant::now();
    let mut digest = crc64fast_nvme::Digest::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        digest.write(buffer.get(..read).unwrap_or_default());
    }
    progress(&format!(
        "checksum in {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    Ok(BASE64_STANDARD.encode(digest.sum64().to_be_bytes()))
}

/// Staged trees are read-only, and not even their owner removes files from such directories.
fn remove_tree(path: &Path) -> Result<(), Box<dyn Error>> {
    let writable = Command::new("chmod")
        .args(["-R", "u+w"])
        .arg(path)
        .status()?;
    if !writable.success() {
        return Err(format!("chmod failed: {writable}").into());
    }
    std::fs::remove_dir_all(path)?;
    Ok(())
}
