//! Measures the transfer engine against a real S3: moves objects one way and prints one line of JSON
//! with bytes, files, wall and CPU seconds, and the largest resident set.
//!
//! ```text
//! S3_SECRET=... transfer_bench --url http://127.0.0.1:8333 --access-key KEY --bucket b \
//!     upload --prefix bench --from DIR
//! S3_SECRET=... transfer_bench --url ... download --to DIR KEY=CRC64NVME...
//! ```
//!
//! `upload` sends every file below DIR and prints `KEY=CRC64NVME` lines on standard error, which
//! `download` takes as arguments or, after `--list`, from a file.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use cts_executor::collect::{CollectLimits, collect};
use cts_executor::object_store::ObjectName;
use cts_executor::object_store::s3::S3Store;
use cts_executor::progress::Counters;
use cts_executor::transfer::{
    Download, Source, TransferEngine, TransferOptions, TransferRuntime, Upload,
};
use cts_net::s3::S3Settings;
use cts_net::secret::{Secret, SecretSource};
use cts_net::tls::Verify;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
struct Arguments {
    /// The S3 endpoint.
    #[arg(long)]
    url: url::Url,
    /// S3 access key.
    #[arg(long)]
    access_key: String,
    /// S3 secret key.
    #[arg(long, env = "S3_SECRET", hide_env_values = true)]
    secret: String,
    /// The bucket.
    #[arg(long)]
    bucket: String,
    /// Hash payloads for the signature; by default they are over plain HTTP only.
    #[arg(long)]
    sign_payload: Option<bool>,
    #[command(subcommand)]
    direction: Direction,
}

#[derive(Debug, Subcommand)]
enum Direction {
    /// Files to objects.
    Upload {
        /// In front of the keys.
        #[arg(long)]
        prefix: String,
        /// The directory.
        #[arg(long)]
        from: PathBuf,
    },
    /// Objects to files.
    Download {
        /// The directory; files are named by key.
        #[arg(long)]
        to: PathBuf,
        /// A file of `KEY=CRC64NVME` lines.
        #[arg(long)]
        list: Option<PathBuf>,
        /// Objects as `KEY=CRC64NVME`.
        objects: Vec<String>,
    },
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let transfer_runtime = TransferRuntime::start()?;
    // As in the executor: the caller's runtime is a small one of its own.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(arguments, &transfer_runtime))
}

async fn run(arguments: Arguments, runtime: &TransferRuntime) -> Result<(), Box<dyn Error>> {
    let settings = S3Settings {
        url: arguments.url,
        access_key: arguments.access_key,
        secret: Arc::new(SecretSource::from_value(Secret::from(arguments.secret))),
        verify: Verify::Certificates,
    };
    let mut store = S3Store::new(settings)?;
    if let Some(sign_payload) = arguments.sign_payload {
        store = store.with_payload_signing(sign_payload);
    }
    let engine = TransferEngine::new(Arc::new(store), TransferOptions::default(), runtime);
    let counters = Arc::new(Counters::default());
    let cancel = CancellationToken::new();
    let begin = Instant::now();
    let bucket = &arguments.bucket;
    match arguments.direction {
        Direction::Upload { prefix, from } => {
            let items = uploads(&from, bucket, &prefix, &cancel)?;
            let sent = engine.upload(items, Arc::clone(&counters), &cancel).await?;
            for uploaded in sent {
                eprintln!("{}={}", uploaded.object.key, uploaded.checksum);
            }
        }
        Direction::Download { to, list, objects } => {
            let items = downloads(bucket, list.as_deref(), objects)?;
            engine.download(items, to, Arc::clone(&counters), &cancel).await?;
        }
    }
    print_result(&counters, begin.elapsed());
    Ok(())
}

fn uploads(
    from: &Path,
    bucket: &str,
    prefix: &str,
    cancel: &CancellationToken,
) -> Result<Vec<Upload>, Box<dyn Error>> {
    let output_dir = format!("{bucket}/{prefix}");
    let collected = collect(from, &output_dir, CollectLimits::default(), cancel)?;
    let files = collected.files.into_iter();
    Ok(files
        .map(|file| Upload {
            object: ObjectName::new(bucket, format!("{prefix}/{}", file.path())),
            source: Source::Output(file),
        })
        .collect())
}

fn downloads(
    bucket: &str,
    list: Option<&Path>,
    mut objects: Vec<String>,
) -> Result<Vec<Download>, Box<dyn Error>> {
    if let Some(list) = list {
        objects.extend(std::fs::read_to_string(list)?.lines().map(str::to_owned));
    }
    let parse = |object: String| -> Result<Download, Box<dyn Error>> {
        // The checksum ends in "=" too.
        let (key, checksum) = object.split_once('=').ok_or("write KEY=CRC64NVME")?;
        Ok(Download {
            object: ObjectName::new(bucket, key),
            destination: key.into(),
            expected: checksum.parse()?,
        })
    };
    objects.into_iter().map(parse).collect()
}

fn print_result(counters: &Counters, wall: Duration) {
    let snapshot = counters.snapshot();
    let (cpu_secs, max_rss_kib) = usage();
    println!(
        "{}",
        serde_json::json!({
            "bytes": snapshot.bytes_done,
            "files": snapshot.files_done,
            "retries": snapshot.retries,
            "wall_secs": wall.as_secs_f64(),
            "cpu_secs": cpu_secs,
            "max_rss_kib": max_rss_kib,
        })
    );
}

/// CPU seconds of this process and its largest resident set in KiB, as the kernel counts them.
fn usage() -> (Option<f64>, Option<u64>) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let high_water = status.lines().find_map(|line| {
        let value = line.strip_prefix("VmHWM:")?;
        value.trim().strip_suffix("kB")?.trim().parse().ok()
    });
    (cpu_secs(), high_water)
}

/// User and system time of all threads.
fn cpu_secs() -> Option<f64> {
    // The kernel reports in hundredths of a second, whatever its own tick (proc_pid_stat(5)).
    const TICKS_PER_SEC: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which is in brackets and may hold anything: utime and stime are 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SEC)
}
