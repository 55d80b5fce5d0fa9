//! Engines and images that cannot be used.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::harness::{Case, Coordinator, Executor};

#[tokio::test]
async fn an_engine_that_does_not_run_is_named() {
    let case = Case::new("engine", &["copy_inputs"])
        .await
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let executor = Executor::new(&case);
    let socket = format!("unix://{}/no-engine.sock", executor.job_dir().display());
    let outcome = executor
        .env("DOCKER_HOST", &socket)
        .run(&case, &coordinator)
        .await;

    outcome.check_status(1);
    outcome.check_states(&["error"]);
    outcome.check_error_names(&["no-engine.sock"]);
}

#[tokio::test]
async fn an_image_that_is_not_in_the_registry_is_named() {
    let case = Case::new("no-image", &["copy_inputs"])
        .await
        .input("a", b"a")
        .await;
    let mut image = case.testbed.images.test_tool.clone();
    image.name.push_str("-absent");
    let case = case.image(&image);
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(1);
    outcome.check_states(&["error"]);
    outcome.check_error_names(&[&image.name]);
}

/// One test for both, as the engine keeps an image that was once pulled with the login.
#[tokio::test]
async fn a_registry_that_wants_a_login_is_named_and_the_login_is_used() {
    let case = Case::new("login", &["copy_inputs"])
        .await
        .input("a", b"a")
        .await;
    let image = &case.testbed.images.private_test_tool;
    let case = case.image(image);
    case.remove_image().await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;
    outcome.check_status(1);
    outcome.check_states(&["error"]);
    outcome.check_error_names(&[&image.name]);

    let registry = &case.testbed.auth_registry;
    let password = registry.password.as_deref().unwrap();
    let login = STANDARD.encode(format!("{}:{password}", registry.user.as_deref().unwrap()));
    let config = json!({ "auths": { &registry.address: { "auth": login } } });
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case)
        .env("DOCKER_CONFIG", directory.path().to_str().unwrap())
        .run(&case, &coordinator)
        .await;
    outcome.check_status(0);
    assert_eq!(outcome.outputs().len(), 1);
    outcome.check(!outcome.stderr().contains(&login), "no login in the output");
    case.remove_image().await;
}

#[tokio::test]
async fn an_image_for_another_platform_is_refused() {
    let case = Case::new("platform", &["copy_inputs"])
        .await
        .input("a", b"a")
        .await;
    let image = &case.testbed.images.other_platform;
    let case = case.image(image);
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(1);
    outcome.check_states(&["error"]);
    outcome.check_error_names(&[&image.tag, "platform"]);
}
