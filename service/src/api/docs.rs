//! `/openapi.json`, `/docs` and `/redoc`: the API's description for programs and for people.
//!
//! The page is Swagger UI, whose files are part of this program. It fetches nothing from anywhere else,
//! and its content security policy does not let it. Its links are relative, so that it works behind a
//! reverse proxy's prefix without knowing it.

use std::io::Read;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use flate2::read::GzDecoder;

use crate::error::Error;

use super::error::ApiError;
use super::extract::{PathParams, not_found};
use super::openapi;

/// What the page may do: nothing but run the scripts and styles that come with it, and call this API.
/// Swagger UI sets styles in attributes and has its icons as `data:`.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; \
    style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// The files of Swagger UI that the page uses; there are more in the package.
const ASSETS: [&str; 3] = [
    "swagger-ui-bundle.js",
    "swagger-ui.css",
    "favicon-32x32.png",
];

const INITIALIZER: &str = "initializer.js";

/// `GET /openapi.json`: the document, made once. For `root_path` see [`openapi::document`].
pub fn document<S: Clone + Send + Sync + 'static>(root_path: Option<&str>) -> MethodRouter<S> {
    let document = Bytes::from(openapi::document(root_path).to_string());
    let headers = [(header::CONTENT_TYPE, "application/json")];
    get(move || std::future::ready((headers, document.clone())))
}

/// `GET /redoc`: the existing service has another page there; here it is the one at `/docs`.
pub fn redoc<S: Clone + Send + Sync + 'static>(root_path: Option<&str>) -> MethodRouter<S> {
    let target = format!("{}/docs", root_path.unwrap_or("").trim_end_matches('/'));
    get(move || std::future::ready(Redirect::temporary(&target)))
}

/// `GET /docs`: the page.
pub async fn page() -> Response {
    let html = include_str!("docs/index.html");
    file("text/html; charset=utf-8", html).into_response()
}

/// `GET /docs/{file}`: what the page is made of.
pub async fn asset(
    PathParams(name): PathParams<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if name == INITIALIZER {
        let script = include_str!("docs/initializer.js");
        return Ok(file("text/javascript; charset=utf-8", script).into_response());
    }
    if !ASSETS.contains(&name.as_str()) {
        return Err(not_found());
    }
    let asset = utoipa_swagger_ui::serve(&name, Arc::default())
        .map_err(|error| Error::Internal(format!("Swagger UI's file {name}: {error}")))?
        .ok_or_else(not_found)?;
    let content_type = match name.rsplit_once('.') {
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        _ => "image/png",
    };
    if takes_gzip(&headers) {
        let headers = [
            (header::CONTENT_ENCODING, HeaderValue::from_static("gzip")),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
        ];
        return Ok((headers, file(content_type, asset.bytes.into_owned())).into_response());
    }
    let mut plain = Vec::new();
    GzDecoder::new(&*asset.bytes)
        .read_to_end(&mut plain)
        .map_err(|error| Error::Internal(format!("Swagger UI's file {name}: {error}")))?;
    Ok(file(content_type, plain).into_response())
}

/// Whether the caller takes gzip; the files are stored so.
fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| matches!(coding.trim(), "gzip" | "*"))
}

fn file<B: IntoResponse>(content_type: &'static str, body: B) -> impl IntoResponse {
    let headers: [(HeaderName, &'static str); 2] = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    ];
    (headers, body)
}
