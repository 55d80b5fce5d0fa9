//! `/images` and `/admin/images`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;
use url::Url;

use cts_shared::job_input::rules::MOUNT_POINT;
use cts_shared::validation::scalars::TextRule;
use cts_shared::validation::{Checked, Fault, Members, list};
use cts_shared::wire::image::{Image, ImageRegistration, Images};

use crate::app::App;
use crate::identity::Role;
use crate::images;

use super::checks::{Checks, only_path};
use super::error::ApiError;
use super::extract::{JsonBody, QueryParams, RestOfPath};
use super::parameters::{self, image_name};
use super::request_context::Caller;

/// Most web pages about an image.
pub const MAX_URLS: usize = 20;

/// A web page's URL.
pub static URL: TextRule = TextRule::of_length(1..=2083);

/// How to use an image.
pub static USAGE_NOTES: TextRule = TextRule::of_length(0..=10_000);

/// `GET /images`
pub async fn list_images(State(app): State<Arc<App>>) -> Result<Json<Images>, ApiError> {
    Ok(Json(Images {
        data: images::list(&app).await?,
    }))
}

/// `GET /images/{*image_id}`
pub async fn get(
    State(app): State<Arc<App>>,
    RestOfPath(name): RestOfPath,
) -> Result<Json<Image>, ApiError> {
    let name = only_path("image_id", &name, image_name)?;
    Ok(Json(images::get(&app, images::parse_name(&name)?).await?))
}

/// `POST /admin/images/{*image_id}`
pub async fn register(
    State(app): State<Arc<App>>,
    caller: Caller,
    RestOfPath(name): RestOfPath,
    query: QueryParams,
    body: JsonBody,
) -> Result<Json<Image>, ApiError> {
    let admin = caller.user()?;
    let mut checks = Checks::default();
    let mount_point = "default_refdata_mount_point";
    let (Some(name), Some(refdata_id), Some(default_refdata_mount_point), Some(about)) = (
        checks.path("image_id", &name, image_name),
        checks.query(&query, "refdata_id", parameters::id),
        checks.query(&query, mount_point, |value| MOUNT_POINT.check(value)),
        checks.optional_body(&body, registration),
    ) else {
        return Err(checks.refuse());
    };
    admin.require_any(&[Role::FullAdmin])?;
    let wanted = images::Registration {
        name,
        refdata_id,
        default_refdata_mount_point,
        about: about.unwrap_or_default(),
    };
    Ok(Json(images::register(&app, admin, wanted).await?))
}

/// `DELETE /admin/images/{*image_id}`
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    RestOfPath(name): RestOfPath,
) -> Result<StatusCode, ApiError> {
    let admin = caller.user()?;
    let name = only_path("image_id", &name, image_name)?;
    admin.require_any(&[Role::FullAdmin])?;
    images::delete(&app, admin, images::parse_name(&name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Checks the body of a registration.
fn registration(body: &Value) -> Checked<ImageRegistration> {
    let mut members = Members::of(body)?;
    let urls = members.optional("urls", urls);
    let usage_notes = members.optional("usage_notes", |value| USAGE_NOTES.check(value));
    let from_image = members.optional("from_image", image_name);
    let faults = members.finish();
    match (urls, usage_notes, from_image) {
        (Some(urls), Some(usage_notes), Some(from_image)) if faults.is_empty() => {
            Ok(ImageRegistration {
                urls,
                // An empty text is none given: it does not clear what is inherited.
                usage_notes: usage_notes.filter(|notes| !notes.is_empty()),
                from_image,
            })
        }
        _ => Err(faults),
    }
}

fn urls(value: &Value) -> Checked<Vec<String>> {
    if value.as_array().is_some_and(|urls| urls.len() > MAX_URLS) {
        let fault = Fault::without_input("too_long", format!("give at most {MAX_URLS} URLs"));
        return Err(fault.with_bound("max_length", MAX_URLS).into());
    }
    list(value, web_url)
}

/// An http(s) URL in its normal form.
fn web_url(value: &Value) -> Checked<String> {
    let fault = |kind| {
        Fault::new(
            kind,
            value,
            "give a URL that starts with http:// or https://",
        )
    };
    let text = value.as_str().ok_or_else(|| fault("url_type"))?;
    let most = *URL.length().end();
    if text.chars().count() > most {
        let message = format!("give a URL of at most {most} characters");
        let fault = Fault::new("url_too_long", value, message);
        return Err(fault.with_bound("max_length", most).into());
    }
    let url = Url::parse(text.trim()).map_err(|_| fault("url_parsing"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(fault("url_scheme").into());
    }
    Ok(url.into())
}
