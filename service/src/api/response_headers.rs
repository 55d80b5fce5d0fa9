//! What every answer carries whatever it says: compression, CORS and security headers (contract
//! service.md, section 1.4).

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{And, NotForContentType, Predicate, SizeAbove};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

/// Smaller bodies are not worth compressing.
const MIN_COMPRESSED_BYTES: u64 = 500;

/// How long a browser need not ask again whether it may; as the existing system has it.
const PREFLIGHT_VALID_FOR: Duration = Duration::from_mins(10);

/// Headers of answers that do not set them themselves. Nothing here is a page, so a browser is to
/// load and run nothing; the API's documentation, which is one, has a policy of its own.
const SECURITY_HEADERS: [(HeaderName, HeaderValue); 4] = [
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
];

/// Gzip for clients that accept it: bodies of 500 bytes or more and all that are streamed, but events,
/// which must arrive one by one.
pub fn compression() -> CompressionLayer<And<SizeAbove, NotForContentType>> {
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(MIN_COMPRESSED_BYTES).and(NotForContentType::SSE))
}

/// Lets pages of these origins call the service with any method and header, and with credentials.
/// Without any there is no layer, and browsers let no other origin's page read an answer.
pub fn cors(origins: &[HeaderValue]) -> Option<CorsLayer> {
    // What is allowed is named after the request: a browser takes no `*` where there are credentials.
    (!origins.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins.iter().cloned()))
            .allow_credentials(true)
            .allow_methods(AllowMethods::mirror_request())
            .allow_headers(AllowHeaders::mirror_request())
            .max_age(PREFLIGHT_VALID_FOR)
    })
}

/// Adds the security headers.
pub async fn security_headers(request: Request, next: Next) -> Response {
    let for_one_user = request.headers().contains_key(header::AUTHORIZATION);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.entry(name).or_insert(value);
    }
    if for_one_user {
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
    }
    response
}
