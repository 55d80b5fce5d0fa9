//! Users of KBase auth2: the real service asks a double of auth2's HTTP API, one that answers, and one that is slow,
//! broken, rate-limited or away.

use std::time::{Duration, Instant};

use cts_tests::auth2::{Auth2, Fault, Route, TokenSpec};
use cts_tests::service_process::{As, Launch, OnAuth2, Tokens};
use futures::future::join_all;
use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, RETRY_AFTER};
use serde_json::{Value, json};

use crate::harness::{Case, GOOD_STATES, TestService, eventually, states};

const JOB_DEADLINE: Duration = Duration::from_secs(90);

/// Longer than anything here takes that goes well.
const SOON: Duration = Duration::from_secs(60);

/// What the service waits for auth2 at most, for one call.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// What everything else may take on a busy machine.
const SLACK: Duration = Duration::from_secs(30);

/// As docs/operations.md says.
const MAX_CALLS_AT_ONCE: usize = 16;

/// The service over an auth2 that knows its users.
struct Setting {
    auth2: Auth2,
    service: TestService,
    http: reqwest::Client,
}

/// An answer of the service or of auth2.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.unwrap();
        Self {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    }

    /// Checks that it is the error envelope with this status and code.
    fn is_error(&self, status: u16, appcode: Option<u32>) {
        let error = &self.body["error"];
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(error["httpcode"], json!(status), "{self:?}");
        let found = error["appcode"].as_u64();
        assert_eq!(found, appcode.map(u64::from), "{self:?}");
    }

    fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap()
    }

    /// Seconds of its `Retry-After`.
    fn retry_after(&self) -> u64 {
        let header = self.headers[RETRY_AFTER].to_str().unwrap();
        header.parse().unwrap()
    }

    /// Checks that it is the 503 of a service that cannot tell who asks.
    fn is_unavailable(&self) {
        self.is_error(503, None);
        let message = self.message();
        assert!(message.contains("KBase auth2 does not answer"), "{message}");
        let seconds = self.retry_after();
        assert!(
            message.ends_with(&format!("try again in {seconds} s")),
            "{message}"
        );
    }
}

impl Setting {
    async fn new(name: &str) -> (Self, Case) {
        let case = Case::new(name, &["copy_inputs"])
            .await
            .input("a.txt", b"a")
            .await;
        let auth2 = Auth2::start().await.unwrap();
        let setting = Self::with(&case, auth2, brief()).await;
        (setting, case)
    }

    /// `spec`: of the tokens of the usual users.
    async fn with(case: &Case, auth2: Auth2, spec: TokenSpec) -> Self {
        auth2.set_user("dev", &["KBASE_STAFF"]);
        let admin = ["CTS_ADMIN", "KBASE_STAFF", "HAS_NERSC_ACCOUNT"];
        auth2.set_user("admin", &admin);
        auth2.set_user("executor", &["CTS_EXTERNAL_EXECUTOR"]);
        let token = |user| auth2.add_token(user, spec.clone());
        let tokens = Tokens {
            user: token("dev"),
            admin: token("admin"),
            executor: token("executor"),
            ..Tokens::default()
        };
        let url = auth2.url();
        let service = TestService::start(case, Launch::on_auth2(OnAuth2 { url, tokens })).await;
        Self {
            auth2,
            service,
            http: cts_tests::testbed::http::client().unwrap(),
        }
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        let url = format!("{}{path}", self.service.url());
        Answer::of(self.http.get(url).bearer_auth(token)).await
    }

    async fn who_am_i(&self, token: &str) -> Answer {
        self.get(token, "/whoami").await
    }

    /// A token of a new user, unknown to the service.
    fn stranger(&self) -> String {
        let name = format!("user_{}", uuid::Uuid::new_v4().simple());
        self.auth2.set_user(&name, &[]);
        self.auth2.add_token(&name, TokenSpec::default())
    }

    /// A token that the service has asked about, and whose answer may be kept no longer.
    async fn known_once(&self) -> String {
        self.auth2.set_user("known", &[]);
        let token = self.auth2.add_token("known", brief());
        assert_eq!(self.who_am_i(&token).await.status, 200);
        let asked = self.auth2.calls(Route::Token);
        eventually("the answer is asked for again", SOON, async || {
            assert_eq!(self.who_am_i(&token).await.status, 200);
            let again = self.auth2.calls(Route::Token);
            if again > asked {
                Ok(())
            } else {
                Err(again.to_string())
            }
        })
        .await;
        token
    }

    /// Waits until `/readyz` says that auth2 is there.
    async fn ready(&self) {
        self.readiness(|ok, detail| ok && detail.is_empty()).await;
    }

    /// Waits until `/readyz` says that auth2 is not there, and why in words that contain these.
    async fn unready(&self, words: &str) {
        let is_so = |ok: bool, detail: &str| !ok && detail.contains(words);
        self.readiness(is_so).await;
    }

    async fn readiness(&self, is_so: impl Fn(bool, &str) -> bool) {
        eventually("readiness of the identity", SOON, async || {
            let url = format!("{}/readyz", self.service.url());
            let answer = Answer::of(self.http.get(url)).await;
            // A store that is busy is asked again.
            if answer.status != 200 {
                return Err(format!("{answer:?}"));
            }
            let dependencies = answer.body["dependencies"].as_array().unwrap();
            let identity = dependencies
                .iter()
                .find(|dependency| dependency["name"] == "identity")
                .unwrap();
            let ok = identity["ok"].as_bool().unwrap();
            let detail = identity["detail"].as_str().unwrap();
            is_so(ok, detail)
                .then_some(())
                .ok_or_else(|| answer.body.to_string())
        })
        .await;
    }

    /// Waits until new users are let in.
    async fn recovers(&self) {
        eventually("a stranger is let in", SOON, async || {
            let answer = self.who_am_i(&self.stranger()).await;
            if answer.status == 200 {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        })
        .await;
    }

    async fn stop(self) {
        self.service.stop().await;
    }
}

/// Tokens whose answers may hardly be kept.
fn brief() -> TokenSpec {
    TokenSpec {
        cache_for: Duration::from_millis(50),
        ..TokenSpec::default()
    }
}

#[tokio::test]
async fn the_double_answers_as_auth2_does() {
    let auth2 = Auth2::start().await.unwrap();
    auth2.set_user("alice", &["KBASE_STAFF"]);
    auth2.set_user("bob", &[]);
    let token = auth2.add_token("alice", TokenSpec::default());
    let http = cts_tests::testbed::http::client().unwrap();
    let ask = async |path: &str, token: &str| {
        let request = http.get(format!("{}{path}", auth2.url()));
        let request = request.header(ACCEPT, "application/json");
        Answer::of(request.header(AUTHORIZATION, token)).await
    };

    let root = ask("/", "").await;
    assert_eq!(root.body["servicename"], "Authentication Service");
    let page = Answer::of(http.get(auth2.url())).await;
    assert!(page.body.as_str().unwrap().starts_with("<html>"));

    let details = ask("/api/V2/token", &token).await;
    assert_eq!(details.status, 200);
    for (member, value) in [
        ("user", json!("alice")),
        ("type", json!("Login")),
        ("mfa", json!("NotUsed")),
        ("cachefor", json!(300_000)),
    ] {
        assert_eq!(details.body[member], value);
    }
    let ends = details.body["expires"].as_u64().unwrap();
    let created = details.body["created"].as_u64().unwrap();
    assert_eq!(ends - created, 86_400_000);
    let me = ask("/api/V2/me", &token).await.body;
    assert_eq!(me["user"], "alice");
    assert_eq!(me["customroles"], json!(["KBASE_STAFF"]));
    let found = ask("/api/V2/users/?list=alice,%20bob,nobody,", &token).await;
    let names: Vec<&String> = found.body.as_object().unwrap().keys().collect();
    assert_eq!(names, ["alice", "bob"]);

    for (path, token, status, appcode, message) in [
        (
            "/api/V2/me",
            "",
            400,
            Some(10010),
            "10010 No authentication token: No user token provided",
        ),
        (
            "/api/V2/token",
            "unknown",
            401,
            Some(10020),
            "10020 Invalid token",
        ),
        // There is no scheme before a token.
        (
            "/api/V2/token",
            &format!("Bearer {token}"),
            401,
            Some(10020),
            "10020 Invalid token",
        ),
        (
            "/api/V2/users/?list=alice,9*",
            "unknown",
            400,
            Some(30010),
            "30010 Illegal user name: Illegal user name [9*]: \
             30010 Illegal user name: Illegal character in user name 9*: *",
        ),
        ("/api/V2/nothing", &token, 404, None, "HTTP 404 Not Found"),
    ] {
        let answer = ask(path, token).await;
        answer.is_error(status, appcode);
        assert_eq!(answer.message(), message);
        assert!(answer.body["error"]["callid"].is_string());
        assert!(answer.body["error"]["time"].is_u64());
    }
    let ended = TokenSpec {
        valid_for: Duration::ZERO,
        ..TokenSpec::default()
    };
    let ended = auth2.add_token("alice", ended);
    ask("/api/V2/me", &ended).await.is_error(401, Some(10020));
    auth2.revoke(&token);
    ask("/api/V2/me", &token).await.is_error(401, Some(10020));
    assert_eq!(auth2.calls(Route::Me), 4);
}

#[tokio::test]
async fn users_have_the_rights_that_their_roles_in_auth2_give() {
    let (setting, _case) = Setting::new("auth2-roles").await;
    let Setting { auth2, service, .. } = &setting;
    let roles = async |who: As| setting.who_am_i(service.token(who)).await.body;
    assert_eq!(roles(As::User).await["user"], "dev");
    assert_eq!(roles(As::User).await["roles"], json!([]));
    assert_eq!(roles(As::Admin).await["roles"], json!(["full_admin"]));

    auth2.set_user("plain", &["SOMETHING"]);
    auth2.set_user("half_admin", &["CTS_ADMIN"]);
    for kind in ["Login", "Agent", "Developer", "Service"] {
        for mfa in [None, Some("Used"), Some("NotUsed"), Some("Unknown")] {
            let spec = TokenSpec {
                kind: kind.to_owned(),
                mfa: mfa.map(str::to_owned),
                ..TokenSpec::default()
            };
            let plain = auth2.add_token("plain", spec);
            let answer = setting.who_am_i(&plain).await;
            assert_eq!(answer.body["user"], "plain", "{kind} {mfa:?}: {answer:?}");
        }
    }
    let plain = auth2.add_token("plain", TokenSpec::default());
    let half_admin = auth2.add_token("half_admin", TokenSpec::default());
    let unheard_of = TokenSpec {
        kind: "Robot".to_owned(),
        ..TokenSpec::default()
    };
    let unheard_of = auth2.add_token("plain", unheard_of);
    let admin_path = "/admin/jobs";
    for (token, path, status, appcode) in [
        (plain.as_str(), admin_path, 403, Some(20000)),
        (service.token(As::Executor), admin_path, 403, Some(20000)),
        (&half_admin, "/whoami", 403, Some(20000)),
        (&unheard_of, "/whoami", 500, None),
    ] {
        setting.get(token, path).await.is_error(status, appcode);
    }
    let by_user = async |name: &str| {
        let path = format!("{admin_path}?user={name}");
        setting.get(service.token(As::Admin), &path).await
    };
    assert_eq!(by_user("plain").await.status, 200);
    by_user("nobody").await.is_error(400, Some(10040));

    auth2.set_user("admin", &["KBASE_STAFF", "HAS_NERSC_ACCOUNT"]);
    eventually("no administrator any more", SOON, async || {
        match setting.get(service.token(As::Admin), admin_path).await {
            answer if answer.status == 200 => Err(format!("{answer:?}")),
            answer => {
                answer.is_error(403, Some(20000));
                Ok(())
            }
        }
    })
    .await;
    setting.stop().await;
}

#[tokio::test]
async fn tokens_are_refused_that_auth2_does_not_know() {
    let (setting, _case) = Setting::new("auth2-tokens").await;
    let Setting { auth2, .. } = &setting;
    let url = format!("{}/whoami", setting.service.url());
    let without = Answer::of(setting.http.get(url)).await;
    without.is_error(401, Some(10010));

    let asked = auth2.calls(Route::Token);
    for _ in 0..5 {
        setting.who_am_i("unknown").await.is_error(401, Some(10020));
    }
    assert_eq!(auth2.calls(Route::Token), asked + 1);

    // Revoked, a token lives on for as long as auth2 allowed its answer to be kept, and no longer.
    let kept = Duration::from_secs(10);
    auth2.set_user("carol", &[]);
    let carol = TokenSpec {
        cache_for: kept,
        ..TokenSpec::default()
    };
    let carol = auth2.add_token("carol", carol);
    let begun = Instant::now();
    assert_eq!(setting.who_am_i(&carol).await.status, 200);
    auth2.revoke(&carol);
    assert_eq!(setting.who_am_i(&carol).await.status, 200);
    eventually("refused", SOON, async || {
        match setting.who_am_i(&carol).await {
            answer if answer.status == 200 => Err(format!("{answer:?}")),
            answer => {
                answer.is_error(401, Some(10020));
                Ok(())
            }
        }
    })
    .await;
    assert!(begun.elapsed() >= kept, "{:?}", begun.elapsed());

    // So does a token that ends in the meantime, but not past its end.
    let ending = TokenSpec {
        valid_for: Duration::from_secs(15),
        ..TokenSpec::default()
    };
    let ending = auth2.add_token("carol", ending);
    assert_eq!(setting.who_am_i(&ending).await.status, 200);
    eventually("ended", SOON, async || {
        match setting.who_am_i(&ending).await.status {
            401 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    setting.stop().await;
}

#[tokio::test]
async fn an_auth2_in_trouble_costs_only_those_it_was_never_asked_about() {
    let (setting, _case) = Setting::new("auth2-trouble").await;
    let known = setting.known_once().await;
    for fault in [
        Fault::Failing,
        Fault::BadGateway,
        Fault::CutOff,
        Fault::RateLimited(None),
        Fault::RateLimited(Some(2)),
        Fault::Unavailable(None),
        Fault::Unavailable(Some(2)),
        Fault::Silent,
    ] {
        setting.auth2.set_fault(Some(fault));
        let begun = Instant::now();
        let answer = setting.who_am_i(&setting.stranger()).await;
        answer.is_unavailable();
        let waited = begun.elapsed();
        assert!(waited < CALL_DEADLINE + SLACK, "{fault:?}: {waited:?}");
        let answer = setting.who_am_i(&known).await;
        assert_eq!(answer.body["user"], "known", "{fault:?}: {answer:?}");
        setting.unready("").await;
        setting.auth2.set_fault(None);
        setting.recovers().await;
        setting.ready().await;
    }
    // What is no answer of auth2 is a fault, whose cause only administrators see.
    setting.auth2.set_fault(Some(Fault::Garbage));
    let answer = setting.who_am_i(&setting.stranger()).await;
    answer.is_error(500, None);
    assert_eq!(answer.message(), "An unexpected error occurred");
    setting.stop().await;
}

#[tokio::test]
async fn what_auth2_says_about_its_limits_is_kept_to_and_passed_on() {
    let (setting, _case) = Setting::new("auth2-limits").await;
    let known = setting.known_once().await;
    setting.auth2.set_fault(Some(Fault::RateLimited(Some(600))));
    let calls = || {
        [Route::Root, Route::Token, Route::Me, Route::Users]
            .map(|route| setting.auth2.calls(route))
            .iter()
            .sum::<usize>()
    };
    setting.who_am_i(&setting.stranger()).await.is_unavailable();
    let asked = calls();
    for _ in 0..20 {
        let answer = setting.who_am_i(&setting.stranger()).await;
        answer.is_unavailable();
        // Five minutes at most.
        assert!((200..=300).contains(&answer.retry_after()), "{answer:?}");
        assert_eq!(setting.who_am_i(&known).await.status, 200);
    }
    setting.unready("it asked for fewer calls").await;
    assert_eq!(calls(), asked, "auth2 was left alone");
    setting.stop().await;
}

#[tokio::test]
async fn a_slow_auth2_is_not_buried_under_calls() {
    let (setting, _case) = Setting::new("auth2-slow").await;
    setting
        .auth2
        .set_fault(Some(Fault::Slow(Duration::from_millis(600))));

    let one = setting.stranger();
    let asked = setting.auth2.calls(Route::Token);
    let answers = join_all((0..40).map(|_| setting.who_am_i(&one))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(setting.auth2.calls(Route::Token), asked + 1);

    // More than can be asked about at once, and fewer than the deadline allows.
    let many: Vec<String> = (0..24).map(|_| setting.stranger()).collect();
    let answers = join_all(many.iter().map(|token| setting.who_am_i(token))).await;
    let refused = answers.iter().find(|answer| answer.status != 200);
    assert!(refused.is_none(), "{refused:?}");
    assert_eq!(setting.auth2.most_at_once(), MAX_CALLS_AT_ONCE);

    // Whom there is no time for is told so within the deadline of a call or two. How many calls were under way is
    // not looked at: auth2 may hear of the next call before it notices that one was given up.
    setting.auth2.set_fault(Some(Fault::Silent));
    let begun = Instant::now();
    let many: Vec<String> = (0..60).map(|_| setting.stranger()).collect();
    for answer in join_all(many.iter().map(|token| setting.who_am_i(token))).await {
        answer.is_unavailable();
    }
    let waited = begun.elapsed();
    assert!(waited < CALL_DEADLINE * 2 + SLACK, "{waited:?}");
    setting.stop().await;
}

#[tokio::test]
async fn the_service_starts_without_auth2_and_lets_users_in_when_it_comes() {
    let case = Case::new("auth2-start", &["copy_inputs"]).await;
    let mut auth2 = Auth2::start().await.unwrap();
    auth2.leave();
    let mut setting = Setting::with(&case, auth2, TokenSpec::default()).await;
    let stranger = setting.stranger();
    setting.who_am_i(&stranger).await.is_unavailable();
    setting.unready("Connection refused").await;
    setting.auth2.come_back().await.unwrap();
    assert_eq!(setting.who_am_i(&stranger).await.status, 200);
    setting.ready().await;
    setting.stop().await;
}

#[tokio::test]
async fn a_job_completes_while_auth2_is_away() {
    let (mut setting, case) = Setting::new("auth2-job").await;
    // The executor is an executor because auth2 says so, and has reported before.
    let id = setting.service.submit(&case, "local").await;
    let job = setting.service.end_of(&id, JOB_DEADLINE).await;
    assert_eq!(states(&job), GOOD_STATES, "{job}");
    assert!(setting.auth2.calls(Route::Me) >= 3);

    setting.auth2.leave();
    let id = setting.service.submit_again(&case, "local").await;
    let job = setting.service.end_of(&id, JOB_DEADLINE).await;
    assert_eq!(states(&job), GOOD_STATES, "{job}");
    let path = format!("/jobs/{id}/log/0/stdout");
    let log = setting.service.text(As::User, &path).await;
    log.unwrap_or_else(|error| panic!("{error}"));
    let answer = setting.who_am_i(&setting.stranger()).await;
    answer.is_unavailable();

    setting.auth2.come_back().await.unwrap();
    setting.recovers().await;
    let own = setting
        .service
        .call(As::User, Method::GET, "/jobs", None)
        .await;
    assert_eq!(own["jobs"].as_array().unwrap().len(), 2);
    setting.stop().await;
}
