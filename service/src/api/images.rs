//! `/images` and `/admin/images`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value};
use url::Url;

use cts_shared::job_input::rules::TextRule;
use cts_shared::wire::image::{Image, ImageRegistration, Images};

use crate::app::App;
use crate::error::Error;
use crate::identity::Role;
use crate::images;

use super::error::ApiError;
use super::extract::{JsonBody, PathParams, QueryParams, check_id};
use super::request_context::Caller;

const MAX_NAME_CHARS: usize = 1000;
/// Most web pages about an image.
pub const MAX_URLS: usize = 20;
/// A web page's URL.
pub static URL: TextRule = TextRule::of_length(1..=2083);
/// How to use an image.
pub static USAGE_NOTES: TextRule = TextRule::of_length(0..=10_000);

/// `GET /images`
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Images>, ApiError> {
    Ok(Json(Images {
        data: images::list(&app).await?,
    }))
}

/// `GET /images/{*image_id}`
pub async fn get(
    State(app): State<Arc<App>>,
    PathParams(name): PathParams<String>,
) -> Result<Json<Image>, ApiError> {
    check_name(&name)?;
    Ok(Json(images::get(&app, images::parse_name(&name)?).await?))
}

/// `GET /images/`: the image endpoint with an empty name.
pub async fn get_nameless() -> ApiError {
    match check_name("") {
        Err(error) => error.into(),
        Ok(()) => super::extract::not_found(),
    }
}

/// `POST /admin/images/{*image_id}`
pub async fn register(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(name): PathParams<String>,
    query: QueryParams,
    body: JsonBody,
) -> Result<Json<Image>, ApiError> {
    let admin = caller.user()?;
    check_name(&name)?;
    let refdata_id = query
        .get("refdata_id")
        .map(|id| check_id(id, "refdata_id").map(str::to_owned))
        .transpose()?;
    let about = match body.optional()? {
        None => ImageRegistration::default(),
        Some(body) => registration(&body)?,
    };
    admin.require_any(&[Role::FullAdmin])?;
    let wanted = images::Registration {
        name,
        refdata_id,
        default_refdata_mount_point: query.get("default_refdata_mount_point").map(str::to_owned),
        about,
    };
    Ok(Json(images::register(&app, admin, wanted).await?))
}

fn check_name(name: &str) -> Result<(), Error> {
    let fault = match name.chars().count() {
        0 => ("string_too_short", "give at least 1 character"),
        1..=MAX_NAME_CHARS => return Ok(()),
        _ => ("string_too_long", "give at most 1000 characters"),
    };
    Err(Error::invalid(fault.0, &["path", "image_id"], fault.1))
}

/// Checks the body of a registration.
fn registration(body: &Value) -> Result<ImageRegistration, Error> {
    let Some(body) = body.as_object() else {
        return Err(Error::invalid(
            "model_attributes_type",
            &["body"],
            "give a JSON object",
        ));
    };
    let mut about = members(body)?;
    let too_long = |name| Error::invalid("string_too_long", &["body", name], "this is too long");
    if about
        .usage_notes
        .as_ref()
        .is_some_and(|notes| notes.chars().count() > *USAGE_NOTES.length().end())
    {
        return Err(too_long("usage_notes"));
    }
    if about
        .from_image
        .as_ref()
        .is_some_and(|name| name.chars().count() > MAX_NAME_CHARS)
    {
        return Err(too_long("from_image"));
    }
    if let Some(urls) = &mut about.urls {
        if urls.len() > MAX_URLS {
            return Err(Error::invalid(
                "too_long",
                &["body", "urls"],
                "give at most 20 URLs",
            ));
        }
        for (index, url) in urls.iter_mut().enumerate() {
            *url = web_url(url).ok_or_else(|| {
                Error::invalid(
                    "url_parsing",
                    &["body", "urls", &index.to_string()],
                    "give an http or https URL of at most 2083 characters",
                )
            })?;
        }
    }
    Ok(about)
}

/// An http(s) URL in its normal form.
fn web_url(text: &str) -> Option<String> {
    let url = Url::parse(text.trim()).ok()?;
    let web = matches!(url.scheme(), "http" | "https") && url.has_host();
    (web && URL.length().contains(&text.chars().count())).then(|| url.to_string())
}

/// Reads a body member by member, so that faults carry their place.
fn members(body: &Map<String, Value>) -> Result<ImageRegistration, Error> {
    let mut about = ImageRegistration::default();
    for (name, value) in body {
        match name.as_str() {
            "usage_notes" => about.usage_notes = string(value, name)?,
            "from_image" => about.from_image = string(value, name)?,
            "urls" => about.urls = strings(value, name)?,
            _ => {
                return Err(Error::invalid(
                    "extra_forbidden",
                    &["body", name],
                    "leave this out; the members are urls, usage_notes and from_image",
                ));
            }
        }
    }
    Ok(about)
}

fn string(value: &Value, name: &str) -> Result<Option<String>, Error> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(Error::invalid(
            "string_type",
            &["body", name],
            "give a string",
        )),
    }
}

fn strings(value: &Value, name: &str) -> Result<Option<Vec<String>>, Error> {
    let fault = || Error::invalid("list_type", &["body", name], "give a list of strings");
    match value {
        Value::Null => Ok(None),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(fault))
            .collect::<Result<Vec<_>, _>>()
            .map(Some),
        _ => Err(fault()),
    }
}
