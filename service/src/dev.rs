//! `cts-service dev`: everything on one machine, out of one directory.
//!
//! ```text
//! DATA_DIR/
//!   lock             held while the service runs
//!   cts.sqlite       jobs and images, if they are not in MongoDB
//!   tokens.toml      users and tokens, mode 0600
//!   tokens/<user>    each user's token alone, mode 0600
//!   s3_secret        secret key of the S3 server, mode 0600
//!   s3/              objects; s3.ports, s3.pid and s3.log belong to its server
//!   jobs/<job>/<n>/  working directory of each executor
//!   refdata/<id>/    reference data, as containers see it; staging/<id>.log is what its staging said
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use cts_net::http_server as server;
use cts_net::s3::S3Settings;
use cts_net::secret::SecretSource;
use cts_net::tls::Verify;
use cts_shared::s3_path::Bucket;

use crate::assembly::{
    Listening, Parts, RunningService, StartError, block_on, listen, open_stores, stop_on_signals,
};
use crate::broker::KafkaSettings;
use crate::cli::DevArgs;
use crate::config::settings::{LocalSiteChoice, NotificationSettings};
use crate::config::{Cleaning, Config, RequestLimits, WorkerFiles};
use crate::data_dir::DataDir;
use crate::identity::TokenFile;
use crate::metrics::Metrics;
use crate::mongo::MongoSettings;
use crate::object_store::{ObjectStore, S3ObjectStore};
use crate::stores::{StoreSettings, Stores};

mod summary;
mod weed;

use weed::{Weed, WeedError};

/// Access key of the S3 server that `dev` starts.
const S3_ACCESS_KEY: &str = "cts";

impl From<WeedError> for StartError {
    fn from(error: WeedError) -> Self {
        Self::Failed {
            action: "provide the S3 store",
            cause: error.to_string(),
        }
    }
}

/// Runs the service until SIGINT or SIGTERM.
///
/// # Errors
/// When it cannot start, or a part it cannot do without has failed.
pub fn run(args: DevArgs) -> Result<(), StartError> {
    block_on(run_async(args))
}

async fn run_async(args: DevArgs) -> Result<(), StartError> {
    let stop = stop_on_signals()?;
    // Kept until the S3 server has stopped: two of them over one directory would destroy it.
    let data_dir = Arc::new(DataDir::take(&args.data_dir)?);
    let identity = TokenFile::open_or_create(&data_dir.join("tokens.toml"))?;
    identity.write_single_tokens(&data_dir.join("tokens"))?;
    let own = OwnParts {
        identity,
        listening: listen((args.bind, args.port).into()).await?,
        stores: open_stores(&store_settings(&args), &data_dir).await?,
        data_dir: Arc::clone(&data_dir),
    };
    // Last: what can fail at once has not.
    let mut s3 = start_s3(&args, data_dir.path(), &stop).await?;
    let outcome = serve(args, own, &mut s3, stop).await;
    if let Some(weed) = s3.weed {
        weed.stop().await;
    }
    outcome
}

/// What is there before the S3 store is.
struct OwnParts {
    data_dir: Arc<DataDir>,
    identity: TokenFile,
    listening: Listening,
    stores: Stores,
}

async fn serve(
    args: DevArgs,
    own: OwnParts,
    s3: &mut S3,
    stop: CancellationToken,
) -> Result<(), StartError> {
    let OwnParts {
        data_dir,
        identity,
        listening,
        stores,
    } = own;
    let object_store = S3ObjectStore::new(&s3.settings)?;
    let bucket = log_bucket(&args);
    if let Some(bucket) = &bucket
        && let Err(cause) = object_store.ensure_bucket(bucket).await
    {
        return Err(StartError::Failed {
            action: "make sure that the bucket of the log directory exists",
            cause: format!("{bucket} in the S3 store {}: {cause}", s3.settings.url),
        });
    }
    let service_name = data_dir.service_name()?;
    let data_path = data_dir.path().to_owned();
    let mut service = RunningService::start(Parts {
        listening,
        server: server::Limits::default(),
        stores,
        service_name,
        notifications: notification_settings(&args),
        identity: Arc::new(identity),
        metrics: Arc::new(Metrics::new()),
        object_store: Arc::new(object_store),
        plain_http_registries: args.plain_http_registry.into_iter().collect(),
        config: Config {
            allowed_paths: args.allowed_s3_path,
            log_dir: args.log_dir,
            max_cpu_hours: args.max_cpu_hours,
            worker_files: WorkerFiles::default(),
            start_jobs: true,
            cleaning: Cleaning::default(),
            request_limits: RequestLimits::default(),
            root_path: None,
            cors_origins: Vec::new(),
        },
        log_level: args.log_level,
        s3: s3.settings.clone(),
        s3_secret_path: s3.secret_path.clone(),
        local_site: Some(LocalSiteChoice {
            executor: args.executor,
            max_executors: args.max_executors.map(usize::from),
            token_path: data_dir.join("tokens").join("executor"),
            docker_host: args.docker_host,
            job_update_timeout_min: args.job_update_timeout_min,
        }),
        condor_site: Err(
            "no HTCondor pool is configured; this service runs jobs on site local".to_owned(),
        ),
        data_dir,
    })
    .await;
    summary::print(&summary::Summary {
        url: &service.url,
        data_dir: &data_path,
        s3_url: s3.settings.url.as_str(),
        s3_access_key: &s3.settings.access_key,
        s3_secret_path: &s3.secret_path,
        bucket: bucket.as_ref().map(Bucket::as_str),
        local_problem: service.local_problem.as_deref(),
    });
    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        error = service.ended() => Err(error),
        error = weed_end(s3.weed.as_mut()) => Err(error.into()),
    };
    service.stop().await;
    outcome
}

fn store_settings(args: &DevArgs) -> StoreSettings {
    match &args.mongo_host {
        None => StoreSettings::Sqlite,
        Some(host) => StoreSettings::Mongo(MongoSettings {
            host: host.as_str().to_owned(),
            database: args.mongo_db.clone(),
            credentials: None,
            retry_writes: false,
        }),
    }
}

fn notification_settings(args: &DevArgs) -> Option<NotificationSettings> {
    (!args.kafka.is_empty()).then(|| NotificationSettings {
        kafka: KafkaSettings {
            servers: args.kafka.clone(),
            topic: args.kafka_topic.clone(),
        },
        adopt_after: None,
    })
}

fn log_bucket(args: &DevArgs) -> Option<Bucket> {
    let bucket = args.log_dir.as_str().split('/').next()?;
    Bucket::parse(bucket).ok()
}

async fn weed_end(weed: Option<&mut Weed>) -> WeedError {
    match weed {
        Some(weed) => weed.ended().await,
        None => std::future::pending().await,
    }
}

struct S3 {
    settings: S3Settings,
    secret_path: PathBuf,
    weed: Option<Weed>,
}

async fn start_s3(
    args: &DevArgs,
    data_dir: &Path,
    stop: &CancellationToken,
) -> Result<S3, StartError> {
    if let (Some(url), Some(access_key), Some(secret_file)) =
        (&args.s3_url, &args.s3_access_key, &args.s3_secret_file)
    {
        let secret_path =
            std::path::absolute(secret_file).map_err(StartError::failed("find the secret file"))?;
        return Ok(S3 {
            settings: S3Settings {
                url: url.clone(),
                access_key: access_key.clone(),
                secret: Arc::new(SecretSource::from_file(&secret_path)?),
                verify: if args.s3_insecure {
                    Verify::Nothing
                } else {
                    Verify::Certificates
                },
            },
            secret_path,
            weed: None,
        });
    }
    let secret_path = data_dir.join("s3_secret");
    let weed = Weed::start(
        args.weed.as_deref(),
        data_dir,
        S3_ACCESS_KEY,
        &secret_path,
        stop,
    )
    .await?;
    Ok(S3 {
        settings: weed.settings().clone(),
        secret_path,
        weed: Some(weed),
    })
}
