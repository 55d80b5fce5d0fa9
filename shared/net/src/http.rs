//! Answers of HTTP services: read with a bound, and told in words when they do not come.

use reqwest::Response;

use crate::tls::certificate_refusal;

/// Why an answer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke, or was too slow.
    #[error("{0}")]
    Transport(String),
    /// It is longer than what was asked for can be.
    #[error("the answer is larger than {max_bytes} bytes")]
    TooLarge {
        /// The bound.
        max_bytes: usize,
    },
}

/// Reads an answer's body, but no more than `max_bytes` of it.
///
/// # Errors
/// As [`BodyError`] says.
pub async fn read_bounded(mut response: Response, max_bytes: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| BodyError::Transport(describe_transport_error(&error)))?
    {
        if body.len() + chunk.len() > max_bytes {
            return Err(BodyError::TooLarge { max_bytes });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What happened to a request, for people: the cause at the end of the chain; reqwest's own text only
/// repeats the URL.
#[must_use]
pub fn describe_transport_error(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    if let Some(refusal) = certificate_refusal(error) {
        return refusal;
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use wiremock::matchers::any;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;

    async fn get(server: &MockServer) -> Response {
        crate::tls::install_provider();
        let client = crate::tls::http_client_builder(crate::tls::Verify::Certificates)
            .unwrap()
            .build()
            .unwrap();
        client.get(server.uri()).send().await.unwrap()
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        let server = MockServer::start().await;
        Mock::given(any())
            .respond_with(ResponseTemplate::new(200).set_body_string("12345"))
            .mount(&server)
            .await;
        assert_eq!(read_bounded(get(&server).await, 5).await.unwrap(), b"12345");
        assert!(matches!(
            read_bounded(get(&server).await, 4).await,
            Err(BodyError::TooLarge { max_bytes: 4 })
        ));
    }

    #[tokio::test]
    async fn the_innermost_cause_is_told() {
        // Bound and not listened on.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let uri = format!("http://{}", socket.local_addr().unwrap());
        crate::tls::install_provider();
        let client = crate::tls::http_client_builder(crate::tls::Verify::Certificates)
            .unwrap()
            .build()
            .unwrap();
        let error = client.get(uri).send().await.unwrap_err();
        let told = describe_transport_error(&error);
        assert!(told.contains("refused"), "{told}");
    }
}
