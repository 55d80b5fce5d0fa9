//! The double of the S3 store: one object, whose bytes come when the test lets them.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use cts_shared::crc64nvme::Crc64Nvme;
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct S3 {
    pub(crate) url: String,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: &'static str,
    body: Vec<u8>,
    gives: watch::Sender<bool>,
    /// Requests for bytes that reached it.
    asked: watch::Sender<usize>,
}

impl S3 {
    /// An object at a path such as `/bucket/key`. Gives its size at once, its bytes after [`give`](Self::give).
    pub(crate) async fn start(path: &'static str, body: &[u8]) -> Self {
        let inner = Arc::new(Inner {
            path,
            body: body.to_owned(),
            gives: watch::Sender::new(false),
            asked: watch::Sender::new(0),
        });
        let shared = Arc::clone(&inner);
        let router = Router::new().fallback(
            move |method: Method, uri: Uri, headers: HeaderMap| async move {
                answer(&shared, &method, &uri, &headers).await
            },
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, inner }
    }

    /// Gives the bytes from now on.
    pub(crate) fn give(&self) {
        self.inner.gives.send_replace(true);
    }

    pub(crate) fn asked(&self) -> usize {
        *self.inner.asked.borrow()
    }
}

async fn answer(inner: &Inner, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response {
    if uri.path() != inner.path {
        let text = "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code></Error>";
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    let about = [
        ("etag", "\"abc\"".to_owned()),
        ("last-modified", "Wed, 01 Jan 2031 00:00:00 GMT".to_owned()),
        (
            "x-amz-checksum-crc64nvme",
            Crc64Nvme::of(&inner.body).to_string(),
        ),
        ("x-amz-checksum-type", "FULL_OBJECT".to_owned()),
        ("accept-ranges", "bytes".to_owned()),
    ];
    let size = inner.body.len();
    if method == Method::HEAD {
        let length = [(header::CONTENT_LENGTH, size.to_string())];
        return (headers_of(about), length).into_response();
    }
    inner.asked.send_modify(|asked| *asked += 1);
    let mut gives = inner.gives.subscribe();
    gives.wait_for(|gives| *gives).await.unwrap();
    let Some(range) = headers.get(header::RANGE) else {
        return (headers_of(about), inner.body.clone()).into_response();
    };
    let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let last = last.parse().unwrap_or(size).min(size - 1);
    let place = [(
        header::CONTENT_RANGE,
        format!("bytes {first}-{last}/{size}"),
    )];
    let part = inner.body[first..=last].to_vec();
    (StatusCode::PARTIAL_CONTENT, headers_of(about), place, part).into_response()
}

fn headers_of<const N: usize>(pairs: [(&'static str, String); N]) -> HeaderMap {
    let pair = |(name, value): (&'static str, String)| {
        (
            header::HeaderName::from_static(name),
            value.parse().unwrap(),
        )
    };
    pairs.into_iter().map(pair).collect()
}
