//! `cts-executor refdata prune`: removes what no image uses, and has the service know before it is gone, so that
//! jobs that need it are refused instead of failing.

use std::collections::{BTreeMap, BTreeSet};

use cts_shared::error_code::ErrorCode;
use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::image::Images;
use cts_shared::wire::refdata::{RefdataList, RefdataUpdate};
use indicatif::HumanBytes;
use reqwest::Method;

use super::{Failure, blocking, say, size, store};
use crate::cli::PruneArguments;
use crate::commands::complain;
use crate::config;
use crate::coordinator::CoordinatorError;
use crate::coordinator::client::{MAX_ANSWER_BYTES, ServiceClient, parse};
use crate::exit::ExitStatus;
use crate::refdata::{StagedItem, StagingLimits, host_name};
use crate::shutdown::{Interrupted, Shutdown};
use crate::variables as vars;

/// The service lists no more (contract service.md, sections 9 and 10); if it lists so many there may be others.
const MAX_LISTED: usize = 1000;
/// A thousand images with the longest usage notes have 40 MB.
const MAX_LIST_BYTES: usize = 64 * 1024 * 1024;

/// Why nothing is removed.
#[derive(Debug, thiserror::Error)]
enum PruneError {
    #[error(
        "the service lists {MAX_LISTED} {what}, which is the most it lists: there may be others; run it without --service, \
         and name everything that is to stay with --keep: the service is then told nothing"
    )]
    Cut { what: &'static str },
}

/// `cts-executor refdata prune`.
pub(super) async fn prune(
    arguments: &PruneArguments,
    shutdown: &Shutdown,
) -> Result<ExitStatus, Failure> {
    let service = match connect(arguments) {
        Ok(service) => service,
        Err(problems) => {
            problems.iter().for_each(complain);
            return Ok(ExitStatus::Configuration);
        }
    };
    let known = match &service {
        None => Known::default(),
        Some(service) => match shutdown.unless_interrupted(service.known()).await? {
            Ok(known) => known,
            Err(error) => {
                complain(&error);
                return Ok(exit_status(&error));
            }
        },
    };
    let store = store(&arguments.store, StagingLimits::default());
    let mut keep = known.in_use;
    keep.extend(arguments.keep.iter().cloned());
    let items = {
        let store = store.clone();
        blocking(move || store.prunable(&keep)).await?
    };
    let (mut removed, mut bytes, mut status) = (0_u64, 0_u64, ExitStatus::Done);
    for item in &items {
        let described = describe(item);
        if arguments.dry_run {
            say(format_args!("would remove {described}"));
        } else {
            if shutdown.token().is_cancelled() {
                return Err(Interrupted.into());
            }
            // First: what is being worked on stays, and the service need not know.
            let (store, id) = (store.clone(), item.id.clone());
            let removal = match blocking(move || store.begin_removal(&id)).await {
                Ok(removal) => removal,
                Err(error) => {
                    complain(format_args!("{} is not removed: {error}", item.id));
                    status = ExitStatus::Failed;
                    continue;
                }
            };
            let state = known.states.get(&item.id);
            let reported = match (&service, state) {
                (Some(service), Some(state)) if *state != RefdataState::Error => {
                    service.report(&item.id).await
                }
                // The service does not count on it.
                _ => Ok(()),
            };
            if let Err(error) = reported {
                complain(format_args!("{} stays: {error}", item.id));
                status = exit_status(&error);
                continue;
            }
            if let Err(error) = blocking(move || removal.finish()).await {
                complain(format_args!("{} is not removed: {error}", item.id));
                status = ExitStatus::Failed;
                continue;
            }
            say(format_args!("removed {described}"));
        }
        removed += 1;
        bytes += item.bytes.unwrap_or(0);
    }
    let verb = if arguments.dry_run {
        "would remove"
    } else {
        "removed"
    };
    say(format_args!(
        "{verb} {removed} of {} unused, {}",
        items.len(),
        HumanBytes(bytes)
    ));
    Ok(status)
}

fn describe(item: &StagedItem) -> String {
    let size = size(item).unwrap_or_else(|| "unknown size".to_owned());
    match &item.problem {
        Some(problem) => format!("{}, {size} ({problem})", item.id),
        None => format!("{}, {size}", item.id),
    }
}

fn exit_status(error: &ServiceError) -> ExitStatus {
    match error {
        ServiceError::Call(error) if error.is_about_the_token() => ExitStatus::NoPermission,
        ServiceError::Call(error) if !error.is_permanent() => ExitStatus::ServiceUnavailable,
        _ => ExitStatus::Failed,
    }
}

/// The service, if the arguments name one.
fn connect(arguments: &PruneArguments) -> Result<Option<Service>, Vec<String>> {
    let Some(root) = &arguments.service else {
        return Ok(None);
    };
    let lookup = |name: &str| match (&arguments.token_path, name) {
        (Some(path), name) if name == vars::TOKEN_PATH.name => {
            Some(path.to_string_lossy().into_owned())
        }
        _ => std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()),
    };
    let token = config::service_token(&lookup)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    if token.is_none() && !arguments.no_report && !arguments.dry_run {
        return Err(vec![
            "no token to tell the service what is removed; give --token-path (or TOKEN), or --no-report: \
             then jobs that need what is removed fail instead of being refused"
                .to_owned(),
        ]);
    }
    let client = match token {
        Some(token) => ServiceClient::new(root.clone(), token),
        None => ServiceClient::anonymous(root.clone()),
    };
    let client = client.map_err(|error| vec![error.to_string()])?;
    Ok(Some(Service {
        client,
        site: arguments.site,
        reports: !arguments.no_report,
    }))
}

/// Why the service does not answer as is needed.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error(transparent)]
    Call(#[from] CoordinatorError),
    #[error(transparent)]
    Prune(#[from] PruneError),
}

/// The service at which the data is registered.
struct Service {
    client: ServiceClient,
    site: Site,
    reports: bool,
}

/// What the service knows.
#[derive(Default)]
struct Known {
    /// What images use, and what is still to be staged.
    in_use: BTreeSet<RefdataId>,
    /// How far each is at the site.
    states: BTreeMap<RefdataId, RefdataState>,
}

impl Service {
    async fn known(&self) -> Result<Known, ServiceError> {
        let images: Images = self.list("/images").await?;
        cut(images.data.len(), "images")?;
        let registered: RefdataList = self.list("/refdata").await?;
        cut(registered.data.len(), "items of reference data")?;
        let states: BTreeMap<_, _> = registered
            .data
            .into_iter()
            .filter_map(|item| {
                let status = item
                    .statuses
                    .iter()
                    .find(|status| status.cluster == self.site)?;
                Some((item.id, status.state))
            })
            .collect();
        let of_images = images
            .data
            .into_iter()
            .filter_map(|image| image.image.refdata_id?.parse().ok());
        let not_ended = states
            .iter()
            .filter(|(_, state)| !state.is_terminal())
            .map(|(id, _)| id.clone());
        Ok(Known {
            in_use: of_images.chain(not_ended).collect(),
            states,
        })
    }

    async fn list<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<T, CoordinatorError> {
        let text = self.client.get(path, MAX_LIST_BYTES).await?;
        parse(&format!("GET {path}"), &text)
    }

    /// Has the service know that the item is gone, before it is.
    async fn report(&self, id: &RefdataId) -> Result<(), ServiceError> {
        if !self.reports {
            return Ok(());
        }
        let path = format!("/external_exec/refdata/{id}/{}/update/error", self.site);
        let words = format!(
            "removed by prune on {}; clean and recover it to stage it again",
            host_name()
        );
        let body = RefdataUpdate {
            admin_error: Some(words),
            traceback: None,
        };
        let sent = self
            .client
            .send(Method::PUT, &path, Some(&body), MAX_ANSWER_BYTES);
        match sent.await {
            // It was deleted there meanwhile.
            Err(error) if error.refusal() == Some(ErrorCode::NoSuchRefdata) => Ok(()),
            sent => Ok(sent.map(drop)?),
        }
    }
}

fn cut(listed: usize, what: &'static str) -> Result<(), PruneError> {
    if listed >= MAX_LISTED {
        return Err(PruneError::Cut { what });
    }
    Ok(())
}
