//! Images: whether one is there, and how it comes.

use std::collections::{BTreeMap, HashMap};

use bollard::auth::DockerCredentials;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use cts_net::registry::Credentials;
use futures::StreamExt;
use secrecy::ExposeSecret;

use super::failure::{self, PullFault};
use super::{Client, EngineError, check_image_name};
use crate::progress::Counters;

/// How often a pull is tried: pauses of about 1, 2, 4, 8 and 16 s let an engine restart meanwhile.
const TRIES: u32 = 6;

pub(super) async fn has_image(client: &Client, image: &str) -> Result<bool, EngineError> {
    check_image_name(image)?;
    match client
        .ask("inspect image", client.docker.inspect_image(image))
        .await
    {
        Ok(_) => Ok(true),
        Err(EngineError::Refused {
            status: Some(404), ..
        }) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) async fn pull(
    client: &Client,
    credentials: &BTreeMap<String, Credentials>,
    image: &str,
    progress: &Counters,
) -> Result<(), EngineError> {
    if has_image(client, image).await? {
        return Ok(());
    }
    let mut layers = Layers {
        progress,
        seen: HashMap::new(),
    };
    let mut tries = 1;
    let mut pause = client.deadlines.pull_pause;
    loop {
        let error = match pull_once(client, credentials, image, &mut layers).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let error = classify(image, tries, error);
        let may_pass = matches!(error, EngineError::PullFailed { .. });
        if !may_pass || tries >= TRIES {
            return Err(error);
        }
        let jittered = pause.mul_f64(rand::random_range(0.5..1.5));
        tracing::warn!(image, tries, pause_ms = jittered.as_millis(), %error, "pull is repeated");
        progress.count_retry();
        tokio::time::sleep(jittered).await;
        pause *= 2;
        tries += 1;
    }
}

/// A failure of one try, in words that name the image.
fn classify(image: &str, tries: u32, error: EngineError) -> EngineError {
    let image = image.to_owned();
    let (status, detail) = match error {
        EngineError::Refused { status, detail, .. } => (status, detail),
        EngineError::NoSpace { .. } => return error,
        other => {
            return EngineError::PullFailed {
                image,
                detail: other.to_string(),
                tries,
            };
        }
    };
    match failure::pull_fault(status, &detail) {
        PullFault::NotFound => EngineError::ImageNotFound { image, detail },
        PullFault::Denied => EngineError::PullRefused { image, detail },
        PullFault::NoSpace => EngineError::NoSpace {
            call: "pull image",
            detail,
        },
        PullFault::Permanent => EngineError::Refused {
            call: "pull image",
            status: Some(400),
            detail: format!("{image}: {detail}"),
        },
        PullFault::Transient => EngineError::PullFailed {
            image,
            detail,
            tries,
        },
    }
}

async fn pull_once(
    client: &Client,
    credentials: &BTreeMap<String, Credentials>,
    image: &str,
    layers: &mut Layers<'_>,
) -> Result<(), EngineError> {
    let options = CreateImageOptionsBuilder::default()
        .from_image(image)
        .build();
    let login = login_for(credentials, image);
    let stream = client.docker.create_image(Some(options), None, login);
    let mut stream = std::pin::pin!(stream);
    // The deadline is per sign of life: a large image may take hours.
    let stall = client.deadlines.pull_stall;
    loop {
        let next = async { stream.next().await.transpose() };
        match client.within("pull image", stall, next).await? {
            Some(message) => layers.note(&message)?,
            None => break,
        }
    }
    // Engines have been seen to end the stream without a word when something went wrong.
    if has_image(client, image).await? {
        Ok(())
    } else {
        Err(EngineError::Refused {
            call: "pull image",
            status: None,
            detail: "the pull ended without an error and without the image".to_owned(),
        })
    }
}

fn login_for(
    credentials: &BTreeMap<String, Credentials>,
    image: &str,
) -> Option<DockerCredentials> {
    // The names we are given are complete: the first segment is the registry.
    let (registry, _) = image.split_once('/')?;
    let login = credentials.get(registry)?;
    Some(DockerCredentials {
        username: Some(login.username.clone()),
        password: Some(login.password.expose_secret().to_owned()),
        serveraddress: Some(registry.to_owned()),
        ..DockerCredentials::default()
    })
}

/// Turns the engine's messages into counters. Bytes count once, also when a layer starts again.
struct Layers<'a> {
    progress: &'a Counters,
    seen: HashMap<String, Layer>,
}

#[derive(Default)]
struct Layer {
    total: u64,
    done: u64,
    finished: bool,
}

impl Layers<'_> {
    fn note(&mut self, message: &CreateImageInfo) -> Result<(), EngineError> {
        if let Some(error) = &message.error_detail {
            return Err(EngineError::Refused {
                call: "pull image",
                status: error.code.and_then(|code| u16::try_from(code).ok()),
                detail: error.message.clone().unwrap_or_default(),
            });
        }
        let (Some(id), Some(status)) = (&message.id, &message.status) else {
            return Ok(());
        };
        match status.as_str() {
            "Downloading" => {
                let detail = message.progress_detail.as_ref();
                let bytes =
                    |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).unwrap_or(0);
                let done = bytes(detail.and_then(|detail| detail.current));
                let total = bytes(detail.and_then(|detail| detail.total));
                let layer = self.seen.entry(id.clone()).or_default();
                if layer.total == 0 && total > 0 {
                    layer.total = total;
                    self.progress.expect(1, total);
                }
                layer.advance_to(done, self.progress);
            }
            "Download complete" | "Pull complete" => {
                if let Some(layer) = self.seen.get_mut(id) {
                    layer.advance_to(layer.total, self.progress);
                    if !layer.finished {
                        layer.finished = true;
                        self.progress.finish_file();
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Layer {
    fn advance_to(&mut self, done: u64, progress: &Counters) {
        let done = done.min(self.total);
        if done > self.done {
            progress.add_bytes(done - self.done);
            self.done = done;
        }
    }
}
