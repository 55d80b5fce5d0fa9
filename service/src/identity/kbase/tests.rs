//! Against an auth2 that answers as the real one does: its routes, headers, error bodies.

use serde_json::{Value, json};
use wiremock::matchers::{header, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;

#[path = "../../../tests/it/log_lines.rs"]
mod log_lines;

use log_lines::{LogLines, log_to};

/// Found in no log line and no error.
const TOKEN: &str = "CANARYCANARYCANARYCANARYCANARYCA";

/// Longest wait for something that has to happen.
const PATIENCE: Duration = Duration::from_secs(20);

struct FakeAuth2 {
    server: MockServer,
    users: KbaseAuth,
}

impl FakeAuth2 {
    async fn start() -> Self {
        Self::with_deadline(Duration::from_secs(10)).await
    }

    async fn with_deadline(deadline: Duration) -> Self {
        // Not one of the pool: it is gone when it is dropped.
        let server = MockServer::builder().start().await;
        let settings = KbaseAuthSettings {
            // As in the configuration: with and without a slash at the end are the same.
            url: format!("{}/services/auth/", server.uri()).parse().unwrap(),
            admin_roles: ["CTS_ADMIN", "OTHER_ADMIN"].map(str::to_owned).into(),
            kbase_staff_role: "KBASE_STAFF".to_owned(),
            nersc_account_role: "HAS_NERSC_ACCOUNT".to_owned(),
            external_executor_role: "CTS_EXTERNAL_EXECUTOR".to_owned(),
            refdata_service_role: "CTS_REFDATA_SERVICE".to_owned(),
        };
        let users =
            KbaseAuth::with_deadline(settings, DependencyCalls::default(), deadline).unwrap();
        Self { server, users }
    }

    async fn answer(&self, route: &str, response: ResponseTemplate) {
        Mock::given(method("GET"))
            .and(path(format!("/services/auth/{route}")))
            .and(header("authorization", TOKEN))
            .and(header("accept", "application/json"))
            .respond_with(response)
            .mount(&self.server)
            .await;
    }

    async fn token(&self, details: Value) {
        self.answer(
            "api/V2/token",
            ResponseTemplate::new(200).set_body_json(details),
        )
        .await;
    }

    async fn me(&self, custom_roles: &[&str]) {
        let me = json!({
            "user": "alice", "display": "Alice", "email": "alice@example.org", "anonid": "x",
            "created": 1_500_000_000_000_i64, "lastlogin": 1_700_000_000_000_i64,
            "local": false, "roles": [], "customroles": custom_roles, "policyids": [], "idents": [],
        });
        self.answer("api/V2/me", ResponseTemplate::new(200).set_body_json(me))
            .await;
    }

    /// Everything is fine, and may be kept that long.
    async fn know_alice(&self, cache_for: Duration) {
        self.token(details(cache_for)).await;
        self.me(&["KBASE_STAFF"]).await;
    }

    async fn user(&self) -> Result<User, IdentityError> {
        let token = SecretString::from(TOKEN);
        tokio::time::timeout(PATIENCE, self.users.user(&token))
            .await
            .unwrap()
    }

    async fn calls(&self, route: &str) -> usize {
        let requests = self.server.received_requests().await.unwrap();
        requests
            .iter()
            .filter(|request| request.url.path() == format!("/services/auth/{route}"))
            .count()
    }

    /// Asks again and again until the answer is as wanted.
    async fn until(&self, wanted: impl Fn(&Result<User, IdentityError>) -> bool) {
        let asking = async {
            while !wanted(&self.user().await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap();
    }
}

fn details(cache_for: Duration) -> Value {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let day = Duration::from_hours(24);
    json!({
        "type": "Login", "id": "b6d2ad2b-7d3e-4f5c-9d4b-5f4f2d0f7a11", "name": null,
        "user": "alice", "custom": {}, "mfa": "NotUsed",
        "created": millis(now), "expires": millis(now + day), "cachefor": millis(cache_for),
    })
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap()
}

fn auth2_error(status: u16, appcode: u32) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(json!({"error": {
        "httpcode": status, "httpstatus": "X", "appcode": appcode, "apperror": "Y",
        "message": format!("{appcode} Y"), "callid": "1234", "time": 1_700_000_000_000_i64,
    }}))
}

const FIVE_MINUTES: Duration = Duration::from_mins(5);
const A_MOMENT: Duration = Duration::from_millis(20);

#[tokio::test]
async fn custom_roles_are_mapped_by_their_configured_names() {
    use Role::{ExternalExecutor, FullAdmin, KbaseStaff, NerscAccount, RefdataService};
    let table: [(&[&str], &[Role]); 7] = [
        (&[], &[]),
        (&["SOMETHING", "kbase_staff", ""], &[]),
        (
            &["KBASE_STAFF", "HAS_NERSC_ACCOUNT"],
            &[KbaseStaff, NerscAccount],
        ),
        (&["CTS_ADMIN"], &[FullAdmin]),
        (
            &["OTHER_ADMIN", "CTS_ADMIN", "KBASE_STAFF"],
            &[FullAdmin, KbaseStaff],
        ),
        (&["CTS_EXTERNAL_EXECUTOR"], &[ExternalExecutor]),
        (&["CTS_REFDATA_SERVICE"], &[RefdataService]),
    ];
    for (custom_roles, roles) in table {
        let auth2 = FakeAuth2::start().await;
        auth2.token(details(FIVE_MINUTES)).await;
        auth2.me(custom_roles).await;
        let user = auth2.user().await.unwrap();
        assert_eq!(user.name, "alice");
        assert_eq!(
            user.roles,
            roles.iter().copied().collect(),
            "{custom_roles:?}"
        );
    }
}

#[tokio::test]
async fn auth2_is_asked_once_while_its_answer_may_be_kept() {
    let auth2 = FakeAuth2::start().await;
    auth2.know_alice(FIVE_MINUTES).await;
    for _ in 0..5 {
        auth2.user().await.unwrap();
    }
    assert_eq!(auth2.calls("api/V2/token").await, 1);
    assert_eq!(auth2.calls("api/V2/me").await, 1);
}

#[tokio::test]
async fn concurrent_requests_with_one_token_make_one_call() {
    let auth2 = FakeAuth2::start().await;
    let slow = ResponseTemplate::new(200)
        .set_body_json(details(FIVE_MINUTES))
        .set_delay(Duration::from_millis(100));
    auth2.answer("api/V2/token", slow).await;
    auth2.me(&[]).await;
    let users = futures::future::join_all((0..50).map(|_| auth2.user())).await;
    assert!(users.iter().all(Result::is_ok));
    assert_eq!(auth2.calls("api/V2/token").await, 1);
    assert_eq!(auth2.calls("api/V2/me").await, 1);
}

#[tokio::test]
async fn an_answer_is_forgotten_when_its_time_is_over() {
    let auth2 = FakeAuth2::start().await;
    auth2.know_alice(A_MOMENT).await;
    auth2.user().await.unwrap();
    auth2.server.reset().await;
    auth2.token(details(FIVE_MINUTES)).await;
    auth2.me(&["CTS_EXTERNAL_EXECUTOR"]).await;
    auth2
        .until(|user| user.as_ref().unwrap().has(Role::ExternalExecutor))
        .await;
}

#[tokio::test]
async fn a_revoked_token_is_refused_when_the_time_is_over_and_stays_so_without_auth2() {
    let auth2 = FakeAuth2::start().await;
    auth2.know_alice(A_MOMENT).await;
    auth2.user().await.unwrap();
    auth2.server.reset().await;
    auth2.answer("api/V2/token", auth2_error(401, 10020)).await;
    auth2
        .until(|user| matches!(user, Err(IdentityError::InvalidToken)))
        .await;
    let token = hash(&SecretString::from(TOKEN));
    assert!(auth2.users.last_known.get(&token).await.is_none());
    // A client that repeats itself does not reach auth2.
    auth2.server.reset().await;
    for _ in 0..5 {
        assert!(matches!(
            auth2.user().await,
            Err(IdentityError::InvalidToken)
        ));
    }
    assert_eq!(auth2.calls("api/V2/token").await, 0);
}

#[tokio::test]
async fn without_an_answer_the_last_one_counts() {
    let no_answers = [
        ResponseTemplate::new(500),
        ResponseTemplate::new(502).set_body_string("<html>Bad gateway</html>"),
        ResponseTemplate::new(429),
        // Longer than the deadline.
        ResponseTemplate::new(200).set_delay(PATIENCE),
    ];
    for no_answer in no_answers {
        let auth2 = FakeAuth2::with_deadline(Duration::from_secs(5)).await;
        auth2.know_alice(A_MOMENT).await;
        let known = auth2.user().await.unwrap();
        auth2.server.reset().await;
        auth2.answer("api/V2/token", no_answer).await;
        let asked = async {
            while auth2.calls("api/V2/token").await == 0 {
                assert_eq!(auth2.user().await.unwrap(), known);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap();
        // It is not asked again at once: requests do not wait for its deadline one by one.
        for _ in 0..5 {
            assert_eq!(auth2.user().await.unwrap(), known);
        }
        assert_eq!(auth2.calls("api/V2/token").await, 1);
    }
}

#[tokio::test]
async fn a_server_that_is_gone_does_not_count_either() {
    let FakeAuth2 { server, users } = {
        let auth2 = FakeAuth2::start().await;
        auth2.know_alice(A_MOMENT).await;
        auth2.user().await.unwrap();
        auth2
    };
    drop(server);
    let token = SecretString::from(TOKEN);
    let key = hash(&token);
    let forgotten = async {
        while users.answers.get(&key).await.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.unwrap();
    let user = tokio::time::timeout(PATIENCE, users.user(&token)).await;
    assert_eq!(user.unwrap().unwrap().name, "alice");
}

#[tokio::test]
async fn the_last_answer_does_not_outlive_the_token() {
    let auth2 = FakeAuth2::start().await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mut ending = details(FIVE_MINUTES);
    ending["expires"] = json!(millis(now.unwrap() + Duration::from_millis(50)));
    auth2.token(ending).await;
    auth2.me(&[]).await;
    auth2.user().await.unwrap();
    auth2.server.reset().await;
    auth2
        .answer("api/V2/token", ResponseTemplate::new(503))
        .await;
    auth2
        .until(|user| matches!(user, Err(IdentityError::Unavailable { .. })))
        .await;
}

#[tokio::test]
async fn a_stranger_waits_until_auth2_is_back() {
    let auth2 = FakeAuth2::with_deadline(Duration::from_millis(200)).await;
    auth2
        .answer(
            "api/V2/token",
            ResponseTemplate::new(200).set_delay(PATIENCE),
        )
        .await;
    let error = auth2.user().await.unwrap_err();
    assert!(error.to_string().contains("no answer in time"), "{error}");
    let error = crate::error::Error::from(error);
    assert!(
        matches!(error, crate::error::Error::Unavailable { retry_after, .. } if !retry_after.is_zero())
    );
    let auth2 = FakeAuth2::start().await;
    for status in [429, 500, 502, 503, 504] {
        auth2.server.reset().await;
        auth2
            .answer("api/V2/token", ResponseTemplate::new(status))
            .await;
        let error = auth2.user().await.unwrap_err();
        assert!(
            matches!(error, IdentityError::Unavailable { .. }),
            "{status}"
        );
    }
    // Nothing of this is remembered.
    auth2.server.reset().await;
    auth2.know_alice(FIVE_MINUTES).await;
    auth2.user().await.unwrap();
}

#[tokio::test]
async fn auth2_is_left_alone_for_as_long_as_it_asks() {
    // (status, what auth2 wants, seconds that a client is told)
    let table = [(429, "30", 30), (503, " 7 ", 7), (429, "86400", 300)];
    for (status, header, seconds) in table {
        let auth2 = FakeAuth2::start().await;
        let busy = ResponseTemplate::new(status).insert_header("retry-after", header);
        auth2.answer("api/V2/token", busy).await;
        for _ in 0..3 {
            let error = auth2.user().await.unwrap_err();
            let text = error.to_string();
            let IdentityError::Unavailable { retry_after, .. } = error else {
                panic!("{error:?}");
            };
            let told = retry_after.as_secs();
            assert!(text.ends_with(&format!("try again in {told} s")), "{text}");
            // Some may have passed.
            assert!((seconds - 5..=seconds).contains(&told), "{text}");
        }
        // No other question is asked, either.
        let error = auth2.users.check().await.unwrap_err().to_string();
        assert!(error.contains("it asked for fewer calls"), "{error}");
        assert_eq!(auth2.server.received_requests().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn what_is_no_number_of_seconds_is_no_pause() {
    let answers = [
        ResponseTemplate::new(429),
        ResponseTemplate::new(429).insert_header("retry-after", "soon"),
        ResponseTemplate::new(503).insert_header("retry-after", "-1"),
        ResponseTemplate::new(500).insert_header("retry-after", "60"),
    ];
    for answer in answers {
        let auth2 = FakeAuth2::start().await;
        auth2.answer("api/V2/token", answer).await;
        for calls in 1..=3 {
            let error = auth2.user().await.unwrap_err();
            assert!(
                matches!(error, IdentityError::Unavailable { retry_after, .. } if retry_after.as_secs() == 10)
            );
            assert_eq!(auth2.calls("api/V2/token").await, calls);
        }
    }
}

#[tokio::test]
async fn users_that_are_known_do_not_wait_for_each_others_deadlines() {
    let auth2 = FakeAuth2::with_deadline(Duration::from_secs(5)).await;
    let tokens: Vec<SecretString> = (0..10).map(|n| format!("token-{n}").into()).collect();
    let answer = |route: &str, body: Value| {
        Mock::given(path(format!("/services/auth/{route}")))
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
    };
    let me = json!({"user": "alice", "customroles": []});
    answer("api/V2/token", details(A_MOMENT))
        .mount(&auth2.server)
        .await;
    answer("api/V2/me", me).mount(&auth2.server).await;
    for token in &tokens {
        auth2.users.user(token).await.unwrap();
    }
    auth2.server.reset().await;
    let silent = ResponseTemplate::new(200).set_delay(PATIENCE);
    Mock::given(path("/services/auth/api/V2/token"))
        .respond_with(silent)
        .mount(&auth2.server)
        .await;
    let all_ended = async {
        for token in &tokens {
            while auth2.users.answers.get(&hash(token)).await.is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, all_ended).await.unwrap();
    for token in &tokens {
        auth2.users.user(token).await.unwrap();
    }
    assert_eq!(
        auth2.calls("api/V2/token").await,
        1,
        "the first one's deadline was enough"
    );
}

#[tokio::test]
async fn other_error_codes_and_nonsense_are_faults() {
    let nonsense = [
        auth2_error(400, 10010),
        auth2_error(403, 20000),
        auth2_error(404, 40000),
        ResponseTemplate::new(404).set_body_string("<html>no such page</html>"),
        ResponseTemplate::new(200).set_body_string("<html>Log in</html>"),
        ResponseTemplate::new(200).set_body_json(json!({"user": "alice"})),
        ResponseTemplate::new(200).set_body_raw(vec![b' '; MAX_BODY + 1], "application/json"),
        ResponseTemplate::new(204),
    ];
    for answer in nonsense {
        let auth2 = FakeAuth2::start().await;
        auth2.answer("api/V2/token", answer.clone()).await;
        let error = auth2.user().await.unwrap_err();
        assert!(matches!(error, IdentityError::Unexpected(_)), "{answer:?}");
        let error = crate::error::Error::from(error);
        assert!(matches!(error, crate::error::Error::Internal(_)));
    }
}

const MAX_BODY: usize = 1024 * 1024;

#[tokio::test]
async fn token_types_and_mfa_states_are_those_of_the_contract() {
    let table = [
        ("type", json!("Login"), true),
        ("type", json!("AGENT"), true),
        ("type", json!("developer"), true),
        ("type", json!("Service"), true),
        ("type", json!("Robot"), false),
        ("type", json!(""), false),
        ("type", Value::Null, false),
        ("mfa", json!("Used"), true),
        ("mfa", json!("notused"), true),
        ("mfa", json!("Unknown"), true),
        ("mfa", json!(""), true),
        ("mfa", Value::Null, true),
        ("mfa", json!("maybe"), false),
    ];
    for (member, value, fine) in table {
        let auth2 = FakeAuth2::start().await;
        let mut token = details(FIVE_MINUTES);
        token[member] = value.clone();
        auth2.token(token).await;
        auth2.me(&[]).await;
        let user = auth2.user().await;
        assert_eq!(user.is_ok(), fine, "{member} {value}: {user:?}");
        if let Err(error) = user {
            assert!(matches!(error, IdentityError::Unexpected(_)));
        }
    }
    let auth2 = FakeAuth2::start().await;
    let mut token = details(FIVE_MINUTES);
    token.as_object_mut().unwrap().remove("mfa");
    auth2.token(token).await;
    auth2.me(&[]).await;
    auth2.user().await.unwrap();
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let auth2 = FakeAuth2::start().await;
    let elsewhere = format!("{}/elsewhere", auth2.server.uri());
    for status in [301, 302, 307, 308] {
        auth2.server.reset().await;
        auth2
            .answer(
                "api/V2/token",
                ResponseTemplate::new(status).insert_header("location", elsewhere.as_str()),
            )
            .await;
        let error = auth2.user().await.unwrap_err();
        assert!(error.to_string().contains("redirect"), "{error}");
        let requests = auth2.server.received_requests().await.unwrap();
        assert!(
            requests
                .iter()
                .all(|request| request.url.path() != "/elsewhere")
        );
    }
}

#[tokio::test]
async fn a_token_that_no_header_can_carry_is_not_sent() {
    let auth2 = FakeAuth2::start().await;
    let token = SecretString::from("line\nbreak");
    let error = auth2.users.user(&token).await.unwrap_err();
    assert!(matches!(error, IdentityError::InvalidToken));
    assert!(auth2.server.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn user_names_are_asked_for_and_only_those_that_exist_are_remembered() {
    let auth2 = FakeAuth2::start().await;
    let token = SecretString::from(TOKEN);
    let users = |list: &str, answer: ResponseTemplate| {
        Mock::given(method("GET"))
            .and(path("/services/auth/api/V2/users/"))
            .and(query_param("list", list))
            .and(header("authorization", TOKEN))
            .respond_with(answer)
    };
    let found = |names: Value| ResponseTemplate::new(200).set_body_json(names);
    for mock in [
        users("bob", found(json!({"bob": "Bob"}))),
        users("nobody", found(json!({}))),
        users("bob,nobody", found(json!({"bob": "Bob"}))),
        users("9*", auth2_error(400, 30010)),
        users("busy", ResponseTemplate::new(503)),
        users("odd", found(json!([]))),
    ] {
        mock.mount(&auth2.server).await;
    }
    let check = async |name: &str| auth2.users.check_user_name(name, &token).await;
    for _ in 0..3 {
        check("bob").await.unwrap();
    }
    assert_eq!(auth2.calls("api/V2/users/").await, 1);
    for name in ["nobody", "nobody", "bob,nobody", "9*"] {
        let error = check(name).await.unwrap_err();
        assert!(matches!(error, IdentityError::InvalidUserName(_)), "{name}");
        let code = crate::error::Error::from(error).code().unwrap();
        assert_eq!(code.code(), 10040);
    }
    assert_eq!(auth2.calls("api/V2/users/").await, 5);
    for name in ["", "  ", &"x".repeat(101)] {
        let error = check(name).await.unwrap_err();
        assert!(matches!(error, IdentityError::InvalidUserName(_)), "{name}");
    }
    assert_eq!(auth2.calls("api/V2/users/").await, 5);
    let error = check("busy").await.unwrap_err();
    assert!(matches!(error, IdentityError::Unavailable { .. }));
    let error = check("odd").await.unwrap_err();
    assert!(matches!(error, IdentityError::Unexpected(_)));
}

#[tokio::test]
async fn the_check_wants_an_auth2() {
    let auth2 = FakeAuth2::start().await;
    let root = |answer: ResponseTemplate| {
        Mock::given(method("GET"))
            .and(path("/services/auth/"))
            .respond_with(answer)
    };
    let named = |name: &str| ResponseTemplate::new(200).set_body_json(json!({"servicename": name}));
    root(named("Authentication Service"))
        .mount(&auth2.server)
        .await;
    auth2.users.check().await.unwrap();
    for (answer, words) in [
        (named("Workspace"), "Workspace"),
        (ResponseTemplate::new(503), "503"),
        (ResponseTemplate::new(200).set_body_string("hi"), "JSON"),
    ] {
        auth2.server.reset().await;
        root(answer).mount(&auth2.server).await;
        let error = auth2.users.check().await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn tokens_are_in_no_log_line_and_no_error() {
    let lines = LogLines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = log_to(subscriber);
    let mut texts = Vec::new();
    for answer in [
        auth2_error(401, 10020),
        ResponseTemplate::new(400).set_body_string(format!("what is {TOKEN}?")),
        ResponseTemplate::new(503).set_body_string(format!("no time for {TOKEN}")),
        ResponseTemplate::new(200).set_body_json(json!({"type": TOKEN})),
        ResponseTemplate::new(200).set_body_string(format!("\"{TOKEN}\"")),
    ] {
        let auth2 = FakeAuth2::start().await;
        auth2.know_alice(A_MOMENT).await;
        auth2.user().await.unwrap();
        texts.push(format!("{:?}", auth2.users));
        auth2.server.reset().await;
        auth2.answer("api/V2/token", answer).await;
        let asked = async {
            loop {
                if let Err(error) = auth2.user().await {
                    texts.push(format!("{error} {error:?}"));
                }
                if auth2.calls("api/V2/token").await > 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap();
    }
    let logged = lines.text();
    assert!(
        logged.contains("its last answer about the user is used"),
        "{logged}"
    );
    for text in texts.iter().chain([&logged]) {
        assert!(!text.contains("CANARY"), "{text}");
    }
}
