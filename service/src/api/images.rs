//! `/images` and `/admin/images`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value};
use url::Url;

use cts_shared::job_input::rules::{IMAGE, MOUNT_POINT, TextRule};
use cts_shared::wire::image::{Image, ImageRegistration, Images};

use crate::app::App;
use crate::error::Error;
use crate::identity::Role;
use crate::images;

use super::error::ApiError;
use super::extract::{JsonBody, PathParams, QueryParams, check_id, check_text};
use super::request_context::Caller;

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
    let mount_point = query.get("default_refdata_mount_point");
    if let Some(path) = mount_point {
        check_text(
            &MOUNT_POINT,
            path,
            &["query", "default_refdata_mount_point"],
        )?;
    }
    let about = match body.optional()? {
        None => ImageRegistration::default(),
        Some(body) => registration(&body)?,
    };
    admin.require_any(&[Role::FullAdmin])?;
    let wanted = images::Registration {
        name,
        refdata_id,
        default_refdata_mount_point: mount_point.map(str::to_owned),
        about,
    };
    Ok(Json(images::register(&app, admin, wanted).await?))
}

fn check_name(name: &str) -> Result<(), Error> {
    check_text(&IMAGE, name, &["path", "image_id"])
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
    if let Some(notes) = &about.usage_notes {
        check_text(&USAGE_NOTES, notes, &["body", "usage_notes"])?;
    }
    if let Some(name) = &about.from_image {
        check_text(&IMAGE, name, &["body", "from_image"])?;
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
