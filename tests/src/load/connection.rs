//! One kept HTTP/1.1 connection.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Call, LoadError, Target};

/// An open connection. It ends when dropped.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn open(target: &Target) -> Result<Self, LoadError> {
        let address = target.address;
        let failed = |cause| LoadError::Connect { address, cause };
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(std::io::Error::other(error)))?;
        // It ends with the sender; what breaks it, the sender tells too.
        tokio::spawn(connection);
        let host = HeaderValue::from_str(&address.to_string());
        Ok(Self {
            sender,
            host: host.map_err(|error| failed(std::io::Error::other(error)))?,
            authorization: target.authorization.clone(),
        })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When there is none, or it is no success.
    pub async fn call(&mut self, call: Call) -> Result<Bytes, LoadError> {
        let (method, path) = (call.method.clone(), call.path.clone());
        match self.exchange(call).await {
            Ok((status, body)) if status.is_success() => Ok(body),
            Ok((status, body)) => Err(LoadError::Refused {
                method,
                path,
                status,
                body: String::from_utf8_lossy(&body).into_owned(),
            }),
            Err(cause) => Err(LoadError::Http {
                method,
                path,
                cause,
            }),
        }
    }

    async fn exchange(&mut self, call: Call) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(HOST, self.host.clone());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if !call.body.is_empty() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = request
            .body(Full::new(call.body))
            .map_err(|error| error.to_string())?;
        let sent = async {
            self.sender.ready().await?;
            let response: Response<_> = self.sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, body))
        };
        sent.await.map_err(|error| {
            let cause = std::error::Error::source(&error);
            cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
        })
    }
}

/// A JSON call.
impl Call {
    /// A `PUT`.
    pub fn put(path: impl Into<String>, body: &serde_json::Value) -> Self {
        Self {
            method: Method::PUT,
            path: path.into(),
            body: Bytes::from(body.to_string()),
        }
    }

    /// A `POST`.
    pub fn post(path: impl Into<String>, body: &serde_json::Value) -> Self {
        Self {
            method: Method::POST,
            path: path.into(),
            body: Bytes::from(body.to_string()),
        }
    }
}
