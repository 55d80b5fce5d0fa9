use sha2::{Digest, Sha256};
use wiremock::matchers::{basic_auth, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest_of(body: &str) -> String {
    let hash = Sha256::digest(body.as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A registry with one repository, `kbase/tool`.
struct Fake {
    server: MockServer,
}

impl Fake {
    async fn start() -> Self {
        let server = MockServer::start().await;
        Mock::given(path("/v2/"))
            .respond_with(ResponseTemplate::new(200))
            .with_priority(9)
            .mount(&server)
            .await;
        Self { server }
    }

    fn image(&self, suffix: &str) -> String {
        format!("{}/kbase/tool{suffix}", self.server.address())
    }

    async fn lookup(&self, suffix: &str) -> Result<ImageLookup, RegistryError> {
        let registry = Registry::new(RegistryOptions::default());
        let image = self.image(suffix).parse().unwrap();
        let lookup = registry.lookup_once(&image);
        tokio::time::timeout(Duration::from_secs(20), lookup)
            .await
            .unwrap()
    }

    async fn answer(&self, what: &str, response: ResponseTemplate) {
        Mock::given(method("GET"))
            .and(path(format!("/v2/kbase/tool/{what}")))
            .respond_with(response)
            .mount(&self.server)
            .await;
    }

    async fn serve(&self, what: &str, media_type: &str, body: &str) {
        let response =
            ResponseTemplate::new(200).set_body_raw(body.as_bytes().to_vec(), media_type);
        self.answer(what, response).await;
    }

    /// Serves an image and returns its manifest's digest.
    async fn serve_image(&self, name: &str, architecture: &str, run: &str) -> String {
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{run},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":700}},{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":42}}]}}"#,
            digest_of(&config),
            config.len(),
            digest_of("a"),
            digest_of("b"),
        );
        let digest = digest_of(&manifest);
        self.serve(
            &format!("blobs/{}", digest_of(&config)),
            "application/octet-stream",
            &config,
        )
        .await;
        for reference in [name, digest.as_str()] {
            self.serve(&format!("manifests/{reference}"), MANIFEST, &manifest)
                .await;
        }
        digest
    }

    async fn serve_index(&self, name: &str, entries: &[(&str, &str)]) -> String {
        let entries: Vec<String> = entries
            .iter()
            .map(|(digest, architecture)| {
                format!(r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":1,"platform":{{"architecture":"{architecture}","os":"linux"}}}}"#)
            })
            .collect();
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#,
            entries.join(",")
        );
        self.serve(&format!("manifests/{name}"), INDEX, &index)
            .await;
        digest_of(&index)
    }
}

fn errors(code: &str) -> String {
    format!(r#"{{"errors":[{{"code":"{code}","message":"said the registry"}}]}}"#)
}

#[tokio::test]
async fn finds_a_single_platform_image() {
    let fake = Fake::start().await;
    let digest = fake
        .serve_image(
            "1.0",
            wanted_platform().1,
            r#"{"Entrypoint":["tool","-x"],"Cmd":["help"]}"#,
        )
        .await;
    let found = fake.lookup(":1.0").await.unwrap();
    assert_eq!((&found.digest, &found.platform_digest), (&digest, &digest));
    assert_eq!((found.compressed_bytes, found.layers), (742, 2));
    assert_eq!(found.entrypoint, ["tool", "-x"]);
    assert_eq!(found.cmd, ["help"]);
    assert_eq!(fake.lookup(&format!("@{digest}")).await.unwrap(), found);
}

#[tokio::test]
async fn an_image_without_entrypoint_is_found() {
    let fake = Fake::start().await;
    fake.serve_image("1.0", wanted_platform().1, r#"{"Entrypoint":null}"#)
        .await;
    let found = fake.lookup(":1.0").await.unwrap();
    assert!(found.entrypoint.is_empty() && found.cmd.is_empty());
}

#[tokio::test]
async fn chooses_the_platform_from_an_index() {
    let fake = Fake::start().await;
    let ours = fake.serve_image("ours", wanted_platform().1, "{}").await;
    let index = fake
        .serve_index(
            "1.0",
            &[(&digest_of("x"), "s390x"), (&ours, wanted_platform().1)],
        )
        .await;
    let found = fake.lookup(":1.0").await.unwrap();
    assert_eq!((found.digest, found.platform_digest), (index, ours));
}

#[tokio::test]
async fn lists_the_platforms_when_ours_is_missing() {
    let fake = Fake::start().await;
    let x = digest_of("x");
    fake.serve_index("index", &[(&x, "s390x"), (&x, "riscv64"), (&x, "unknown")])
        .await;
    fake.serve_image("single", "s390x", "{}").await;
    for (tag, platforms) in [
        (":index", "linux/riscv64, linux/s390x"),
        (":single", "linux/s390x"),
    ] {
        let error = fake.lookup(tag).await.unwrap_err();
        assert!(error.is_permanent());
        assert!(error.to_string().contains(platforms), "{error}");
    }
}

#[tokio::test]
async fn failures_have_words_of_their_own() {
    let fake = Fake::start().await;
    let cases = [
        (
            "tag",
            404,
            errors("MANIFEST_UNKNOWN"),
            true,
            "tag tag in repository kbase/tool does not exist",
        ),
        (
            "repository",
            404,
            errors("NAME_UNKNOWN"),
            true,
            "repository kbase/tool does not exist",
        ),
        (
            "plain404",
            404,
            "nothing here".to_owned(),
            true,
            "tag plain404",
        ),
        ("login", 401, errors("UNAUTHORIZED"), true, "refused access"),
        (
            "denied",
            403,
            errors("DENIED"),
            true,
            "without a login: said the registry",
        ),
        (
            "slow",
            429,
            errors("TOOMANYREQUESTS"),
            false,
            "limits the rate",
        ),
        ("slower", 429, "<html>".to_owned(), false, "limits the rate"),
        ("broken", 500, "oops".to_owned(), false, "status 500 oops"),
        (
            "odd",
            400,
            errors("UNSUPPORTED"),
            false,
            "Unsupported said the registry",
        ),
        (
            "page",
            200,
            "<html>".to_owned(),
            true,
            "not a container image",
        ),
        (
            "old",
            200,
            r#"{"schemaVersion":1}"#.to_owned(),
            true,
            "schema version: 1",
        ),
    ];
    for (tag, status, body, permanent, words) in cases {
        fake.answer(
            &format!("manifests/{tag}"),
            ResponseTemplate::new(status).set_body_string(body),
        )
        .await;
        let error = fake.lookup(&format!(":{tag}")).await.unwrap_err();
        assert_eq!(error.is_permanent(), permanent, "{tag}: {error:?}");
        assert!(error.to_string().contains(words), "{tag}: {error}");
    }
}

#[tokio::test]
async fn content_must_match_its_digest() {
    let fake = Fake::start().await;
    let asked = digest_of("something else");
    fake.serve(
        &format!("manifests/{asked}"),
        MANIFEST,
        r#"{"schemaVersion":2}"#,
    )
    .await;
    let error = fake.lookup(&format!("@{asked}")).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::DigestMismatch { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_endless_configuration_is_refused() {
    let fake = Fake::start().await;
    let config = digest_of("config");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"x","digest":"{config}","size":6}},"layers":[]}}"#
    );
    fake.serve("manifests/1.0", MANIFEST, &manifest).await;
    let body = " ".repeat(MAX_CONFIG_BYTES + 1);
    fake.serve(&format!("blobs/{config}"), "application/json", &body)
        .await;
    let error = fake.lookup(":1.0").await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[tokio::test]
async fn logs_in_where_a_login_is_given() {
    let fake = Fake::start().await;
    let host = fake.server.address().to_string();
    Mock::given(path("/v2/"))
        .respond_with(ResponseTemplate::new(401).insert_header(
            "WWW-Authenticate",
            format!(r#"Bearer realm="http://{host}/token",service="fake""#).as_str(),
        ))
        .with_priority(1)
        .mount(&fake.server)
        .await;
    Mock::given(path("/token"))
        .and(basic_auth("ada", "secret"))
        .respond_with(ResponseTemplate::new(200).set_body_string(r#"{"token":"tok"}"#))
        .mount(&fake.server)
        .await;
    Mock::given(path("/v2/kbase/tool/manifests/1.0"))
        .and(header("Authorization", "Bearer tok"))
        .respond_with(ResponseTemplate::new(404).set_body_string(errors("MANIFEST_UNKNOWN")))
        .mount(&fake.server)
        .await;
    let credentials = Credentials {
        username: "ada".to_owned(),
        password: "secret".into(),
    };
    assert!(!format!("{credentials:?}").contains("secret"));
    let registry = Registry::new(RegistryOptions {
        credentials: BTreeMap::from([(host, credentials)]),
        ..RegistryOptions::default()
    });
    let error = registry.lookup(&fake.image(":1.0")).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn repeats_what_may_pass() {
    let fake = Fake::start().await;
    Mock::given(path("/v2/kbase/tool/manifests/1.0"))
        .respond_with(ResponseTemplate::new(503))
        .up_to_n_times(1)
        .with_priority(1)
        .mount(&fake.server)
        .await;
    fake.serve_image("1.0", wanted_platform().1, "{}").await;
    let registry = Registry::new(RegistryOptions::default());
    registry.lookup(&fake.image(":1.0")).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_named() {
    // Bound and not listened on.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let registry = Registry::new(RegistryOptions::default());
    let image: Reference = format!("{address}/x:1").parse().unwrap();
    let error = registry.lookup_once(&image).await.unwrap_err();
    assert!(!error.is_permanent());
    let words = error.to_string();
    assert!(
        words.contains(&address.to_string()) && words.contains("refused"),
        "{words}"
    );
}

#[tokio::test]
async fn a_malformed_reference_is_quoted() {
    let error = Registry::default().lookup("UPPER/x@y").await.unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("\"UPPER/x@y\""));
}

#[test]
fn plain_http_is_for_this_machine_only() {
    for local in [
        "localhost",
        "localhost:5000",
        "127.0.0.1:5000",
        "127.9.8.7",
        "[::1]:5000",
    ] {
        assert!(is_local(local), "{local}");
    }
    for remote in [
        "docker.io",
        "localhost.example.org",
        "10.0.0.1:5000",
        "host:5000",
    ] {
        assert!(!is_local(remote), "{remote}");
    }
}
