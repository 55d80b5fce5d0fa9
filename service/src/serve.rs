//! `cts-service serve`: the service as its configuration says, and `check-config`, which explains that.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use cts_net::s3::S3Settings;
use cts_net::secret::{SecretSource, read_secret_file};
use cts_shared::s3_path::S3Path;

use crate::assembly::{
    CondorSiteParts, Parts, RunningService, StartError, block_on, listen, open_stores,
    stop_on_signals,
};
use crate::cli::{CheckConfigArgs, ServeArgs};
use crate::condor::commands::CondorCommands;
use crate::condor::start_up::{LOOK_AGAIN_AFTER, StartUp};
use crate::config::settings::{
    CondorSiteChoice, IdentitySettings, Loaded, LocalSiteChoice, RefdataStagingChoice, S3Access,
    Settings,
};
use crate::config::{Config, PathPrefix, Sources, WorkerFiles, explain};
use crate::data_dir::DataDir;
use crate::exit::ExitStatus;
use crate::identity::{Identity, KbaseAuth, TokenFile};
use crate::metrics::Metrics;
use crate::object_store::{
    ObjectStore, ObjectStoreError, S3ObjectStore, WRITE_TEST_NAME, try_writing,
};
use crate::refdata_stager::{RefdataStager, ServerStager, StagedByExecutors};
use crate::telemetry;

/// How long the S3 store may take to take the test objects before the service starts without its answer.
const S3_TEST: Duration = Duration::from_secs(20);

/// Prints every setting and where it came from; what is wrong goes to standard error.
pub fn check_config(args: &CheckConfigArgs) -> ExitStatus {
    let loaded = Loaded::read(&Sources::of_process(args.config.config.as_deref()));
    let text = if args.json {
        format!("{:#}\n", explain::json(&loaded))
    } else {
        explain::text(&loaded)
    };
    // Both may be closed; the exit status still tells.
    let _closed = std::io::stdout().lock().write_all(text.as_bytes());
    match &loaded.settings {
        Ok(_) => ExitStatus::Done,
        Err(faults) => {
            let _closed = writeln!(std::io::stderr(), "cts-service: {faults}");
            ExitStatus::Configuration
        }
    }
}

/// Runs the service until SIGINT or SIGTERM.
///
/// # Errors
/// When it cannot start, or a part it cannot do without has failed.
pub fn run(args: &ServeArgs) -> Result<(), StartError> {
    let loaded = Loaded::read(&Sources::of_process(args.config.config.as_deref()));
    let settings = loaded
        .settings
        .map_err(|faults| StartError::Configuration(faults.to_string()))?;
    telemetry::init(settings.log_format, settings.log_level);
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    for line in &loaded.without_effect {
        tracing::info!("{line}");
    }
    block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<(), StartError> {
    let stop = stop_on_signals()?;
    let data_dir = Arc::new(DataDir::take(&settings.data_dir)?);
    let metrics = Arc::new(Metrics::new());
    let identity = identity(settings.identity, &metrics)?;
    let local_site = settings.local_site.map(local_site).transpose()?;
    check_worker_files(&settings.config.worker_files)?;
    let s3 = s3_settings(settings.s3);
    let object_store = S3ObjectStore::new(&s3)?;
    let condor_site = condor_site(settings.condor_site, &metrics).await?;
    let listening = listen(settings.address).await?;
    let stores = open_stores(&settings.store, &data_dir).await?;
    tokio::select! {
        (outcome, ()) = async {
            tokio::join!(
                test_writing(&object_store, &settings.config),
                test_identity(&*identity),
            )
        } => outcome?,
        () = stop.cancelled() => return Ok(()),
    }
    let service_name = data_dir.service_name()?;
    let local_enabled = local_site.is_some();
    let s3_secret_path = match local_site {
        Some(_) => data_dir.write_private("s3_secret", &s3.secret.current())?,
        None => PathBuf::new(),
    };

    let mut service = RunningService::start(Parts {
        data_dir,
        listening,
        server: settings.server,
        stores,
        service_name,
        notifications: settings.notifications,
        identity,
        metrics,
        object_store: Arc::new(object_store),
        plain_http_registries: settings.plain_http_registries,
        config: settings.config,
        log_level: settings.log_level,
        s3,
        s3_secret_path,
        local_site,
        condor_site,
    })
    .await;
    if local_enabled && let Some(problem) = &service.local_problem {
        tracing::warn!(reason = %problem, "site local is not available");
    }
    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        error = service.ended() => Err(error),
    };
    service.stop().await;
    outcome
}

fn identity(
    settings: IdentitySettings,
    metrics: &Metrics,
) -> Result<Arc<dyn Identity>, StartError> {
    match settings {
        IdentitySettings::TokenFile(path) => {
            if !path.is_file() {
                return Err(StartError::Configuration(format!(
                    "Authentication.token_file: there is no file {}; docs/service.md shows one",
                    path.display()
                )));
            }
            Ok(Arc::new(TokenFile::open_or_create(&path)?))
        }
        IdentitySettings::Kbase(settings) => {
            let users = Arc::new(KbaseAuth::new(settings, metrics.dependency_calls())?);
            Ok(users)
        }
    }
}

/// Executors work in directories of their own: their files have absolute paths.
fn local_site(choice: LocalSiteChoice) -> Result<LocalSiteChoice, StartError> {
    let token_path = std::path::absolute(&choice.token_path)
        .map_err(StartError::failed("find LocalSite.token_path"))?;
    read_secret_file(&token_path)
        .map_err(|error| StartError::Configuration(format!("LocalSite.token_path: {error}")))?;
    Ok(LocalSiteChoice {
        token_path,
        ..choice
    })
}

/// The pool. One that does not answer now is no reason not to start, and neither is that its tools are not there yet.
async fn condor_site(
    choice: Option<CondorSiteChoice>,
    metrics: &Metrics,
) -> Result<Result<CondorSiteParts, String>, StartError> {
    let Some(choice) = choice else {
        return Ok(Err("it is switched off by KBCTS_SKIP_KBASE".to_owned()));
    };
    if !choice.lacking.is_empty() {
        let reason = format!("{} is not set", choice.lacking.join(", and neither "));
        tracing::warn!(
            reason,
            "site kbase is not available: workers could not start executors"
        );
        return Ok(Err(reason));
    }
    let commands = CondorCommands::new(choice.commands, metrics.dependency_calls());
    let commands = Arc::new(commands);
    let start_up = StartUp::new(
        Arc::clone(&commands),
        choice.submit.initial_dir.clone(),
        LOOK_AGAIN_AFTER,
    );
    let missing = start_up.check().await.err();
    if let Some(reason) = &missing {
        tracing::warn!(
            reason,
            "site kbase is not available; it is looked at again every {} s; KBCTS_SKIP_KBASE=true says that it is not \
             wanted",
            LOOK_AGAIN_AFTER.as_secs()
        );
    }
    Ok(Ok(CondorSiteParts {
        start_up,
        missing,
        refdata: refdata_stager(choice.refdata, metrics)?,
        submit: choice.submit,
        pool: commands,
        reconcile_interval: choice.reconcile_interval,
        max_releases: choice.max_releases,
    }))
}

fn refdata_stager(
    choice: RefdataStagingChoice,
    metrics: &Metrics,
) -> Result<Arc<dyn RefdataStager>, StartError> {
    Ok(match choice {
        RefdataStagingChoice::Server(settings) => {
            Arc::new(ServerStager::new(settings, metrics.dependency_calls())?)
        }
        RefdataStagingChoice::Executors => Arc::new(StagedByExecutors::new(true)),
        RefdataStagingChoice::Nobody => Arc::new(StagedByExecutors::new(false)),
    })
}

/// What workers download is there (contract config.md).
fn check_worker_files(files: &WorkerFiles) -> Result<(), StartError> {
    for (key, path) in [
        ("HTCondor.executable_path", &files.executable),
        ("ExternalExecution.archive_path", &files.archive),
    ] {
        if let Some(path) = path
            && !path.is_file()
        {
            return Err(StartError::Configuration(format!(
                "{key}: {} is not a file; correct it, or leave it out if no HTCondor workers need it",
                path.display()
            )));
        }
    }
    Ok(())
}

fn s3_settings(access: S3Access) -> S3Settings {
    S3Settings {
        url: access.url,
        access_key: access.access_key,
        secret: Arc::new(SecretSource::from_value(access.secret)),
        verify: access.verify,
    }
}

/// Asks whether whoever knows the users is there. Without an answer the service starts all the same: what is
/// remembered or public works, and a restart would not help.
async fn test_identity(identity: &dyn Identity) {
    if let Err(error) = identity.check().await {
        tracing::warn!(%error, "the identity provider does not answer; starting all the same");
    }
}

/// Puts an object into the log path and every allowed path, and deletes it (contract config.md, checks at
/// start). What an operator must change stops the start; a store that does not answer does not, for a restart
/// would not help it.
async fn test_writing(store: &dyn ObjectStore, config: &Config) -> Result<(), StartError> {
    let paths = std::iter::once(("Jobs.container_s3_log_dir", &config.log_dir)).chain(
        config
            .allowed_paths
            .iter()
            .map(|path| ("Jobs.allowed_s3_paths", path)),
    );
    let tests = join_all(paths.map(|(key, path)| async move {
        test_writing_below(store, path)
            .await
            .err()
            .map(|error| (key, path, error))
    }));
    let Ok(outcomes) = tokio::time::timeout(S3_TEST, tests).await else {
        tracing::warn!("the S3 store does not answer; starting all the same");
        return Ok(());
    };
    let mut wrong = Vec::new();
    for (key, path, error) in outcomes.into_iter().flatten() {
        let path = path.as_str();
        match error {
            ObjectStoreError::Denied { .. } => wrong.push(format!(
                "{key}: the S3 store does not let the service write below {path}; check S3.access_key and \
                 S3.access_secret, and give the key the right to put objects there"
            )),
            ObjectStoreError::NoSuchBucket { .. } | ObjectStoreError::NoSuchObject { .. } => {
                wrong.push(format!(
                    "{key}: the bucket of {path} does not exist; make it, or correct the path"
                ));
            }
            error @ ObjectStoreError::Unavailable { .. } => {
                tracing::warn!(%error, "the S3 store does not answer; starting all the same");
            }
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(StartError::Configuration(wrong.join("\n")))
    }
}

async fn test_writing_below(
    store: &dyn ObjectStore,
    prefix: &PathPrefix,
) -> Result<(), ObjectStoreError> {
    let path = prefix.join(WRITE_TEST_NAME);
    let path = S3Path::parse(&path).map_err(|_| ObjectStoreError::NoSuchBucket { path })?;
    try_writing(store, &path).await
}
