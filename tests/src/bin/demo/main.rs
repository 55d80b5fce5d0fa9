//! `make demo`: a real tool over real data, through the whole system, with every step told.

mod data;
mod job;
mod screen;

use std::process::ExitCode;

use clap::Parser;
use cts_tests::service_process::ServiceProcess;
use cts_tests::testbed::{DEMO_SERVICE, Testbed, htcondor};

use screen::Screen;

/// Runs SeqKit over the lambda phage's genome and reads, through service, executor, container engine,
/// registry and S3 server.
#[derive(Debug, Parser)]
struct Arguments {
    /// Leave everything running at the end, to look around; Ctrl-C ends it
    #[arg(long)]
    stay: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut screen = Screen::new();
    let dir = Testbed::default_dir();
    // What was running before the demo keeps running after it.
    let was_up = matches!(Testbed::status(&dir).await, Ok(components)
        if components.iter().filter(|component| component.name != htcondor::NAME)
            .all(|component| component.problem.is_none()));
    let result = run(&mut screen, was_up, arguments.stay).await;
    let keep = was_up || (arguments.stay && result.is_ok());
    if !keep {
        screen.step("Stop what the demo started");
        if let Err(error) = Testbed::down(&dir).await {
            screen.failed(&error.to_string());
            return ExitCode::FAILURE;
        }
        screen.done();
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.failed(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn run(screen: &mut Screen, was_up: bool, stay: bool) -> Result<(), Failure> {
    screen.step("Start the real components: container engine, image registry, S3 server");
    if !was_up {
        screen.line("the first time this downloads and installs what is missing: a minute or two");
    }
    let testbed = Testbed::up_without_pool(&Testbed::default_dir()).await?;
    screen.done();

    screen.step("Start the task service");
    testbed.stop_services().await?;
    let data_dir = testbed.layout().data(DEMO_SERVICE);
    let log = testbed.layout().log(DEMO_SERVICE);
    let service = ServiceProcess::start(testbed.state(), &data_dir, &log).await?;
    screen.line(&format!(
        "REST at {}, log in {}",
        service.url(),
        log.display()
    ));
    screen.done();

    // From here on Ctrl-C must not leave the service or a container behind.
    let outcome = tokio::select! {
        outcome = job::run(screen, &testbed, &service) => outcome,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    if outcome.is_ok() {
        look_further(screen, &testbed, &service, stay);
        if stay {
            tokio::signal::ctrl_c().await?;
        }
    }
    let stopped = service.stop().await;
    outcome?;
    stopped?;
    Ok(())
}

fn look_further(screen: &mut Screen, testbed: &Testbed, service: &ServiceProcess, stay: bool) {
    screen.step("To look further");
    screen.line(&format!(
        "what the service logged: {}",
        service.log().display()
    ));
    if stay {
        let tokens = testbed.layout().data(DEMO_SERVICE).join("tokens.toml");
        let state = testbed.layout().state_file();
        screen.line(&format!(
            "REST at {}, tokens in {}",
            service.url(),
            tokens.display()
        ));
        screen.line(&format!(
            "engine, registry and S3 server: addresses in {}",
            state.display()
        ));
        screen.line("Ctrl-C ends the service; `make testbed-down` then stops the components");
    } else {
        screen.line("`make demo STAY=1` leaves everything running at the end");
        screen.line("`make testbed-up` starts only the components; tests/README.md tells more");
    }
}
