//! The executor's transfer engine by itself: moves objects one way, with the executor's settings.
//!
//! ```text
//! S3_SECRET=... cts-transfer-bench --url http://127.0.0.1:8333 --access-key KEY --bucket b \
//!     upload --prefix bench --from DIR > LIST
//! S3_SECRET=... cts-transfer-bench --url ... download --to DIR --list LIST
//! ```
//!
//! `upload` sends every file below DIR and prints `KEY=CRC64NVME` lines, which `download` takes as
//! arguments or, after `--list`, from a file. Nothing is measured here: `make bench` measures it from
//! outside, as it does other programs.

#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    let bucket = &arguments.bucket;
    match arguments.direction {
        Direction::Upload { prefix, from } => {
            let items = uploads(&from, bucket, &prefix, &cancel)?;
            let sent = engine.upload(items, counters, &cancel).await?;
            for uploaded in sent {
                println!("{}={}", uploaded.object.key, uploaded.checksum);
            }
        }
        Direction::Download { to, list, objects } => {
            let items = downloads(bucket, list.as_deref(), objects)?;
            engine.download(items, to, counters, &cancel).await?;
        }
    }
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
