//! What the pool's people see in the job's ad, told over chirp to a starter of the test's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cts_executor::condor::pool_view::PoolView;
use cts_executor::container_engine::fake::{End, Script};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::bed::{Answer, Bed, Service, eventually, job};

/// The part of HTCondor's starter that a job talks to.
#[derive(Debug, Default)]
struct Starter {
    /// Every value that was set, in order.
    set: Mutex<Vec<(String, String)>>,
    /// Answers every command with a refusal.
    refuses: bool,
}

impl Starter {
    /// Listens; the path of the file that says where.
    async fn listen(self: &Arc<Self>, directory: &Path) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let path = directory.join("chirp.config");
        let port = listener.local_addr().unwrap().port();
        std::fs::write(&path, format!("127.0.0.1 {port} c00kie\n")).unwrap();
        let starter = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                starter.serve(stream).await;
            }
        });
        path.display().to_string()
    }

    async fn serve(&self, stream: TcpStream) {
        let mut lines = BufReader::new(stream);
        let mut is_known = false;
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).await.unwrap() == 0 {
                return;
            }
            let words = words(line.trim_end_matches('\n'));
            let answer = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                _ if self.refuses => "-2\n",
                ["cookie", "c00kie"] => {
                    is_known = true;
                    "0\n"
                }
                ["set_job_attr_delayed", name, value] if is_known => {
                    let set = (name.to_owned(), value.to_owned());
                    self.set.lock().unwrap().push(set);
                    "0\n"
                }
                _ => "-8\n",
            };
            lines.get_mut().write_all(answer.as_bytes()).await.unwrap();
        }
    }

    fn has_set(&self, name: &str, value: &str) -> bool {
        let set = self.set.lock().unwrap();
        set.iter().any(|(n, v)| n == name && v == value)
    }
}

/// Words apart by spaces; a backslash takes the next character as it is.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => words.last_mut().unwrap().extend(chars.next()),
            ' ' => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

async fn bed(starter: &Arc<Starter>, end: End, answers: BTreeMap<usize, Answer>) -> Bed {
    let script = Script {
        end,
        ..Script::default()
    };
    let document = job(&json!({}), &["buk/a/x"], 1, "buk/out");
    let service = Service::counting_attempts(document, answers);
    let mut bed = Bed::new(service, script).await;
    bed.stepped = Some(Arc::default());
    bed.put("buk/a/x", b"");
    let config = starter.listen(&bed.path()).await;
    let lookup = |name: &str| (name == "_CONDOR_CHIRP_CONFIG").then(|| config.clone());
    bed.pool = PoolView::start(&lookup, Path::new("/nonexistent"));
    bed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn phase_container_and_attempt_are_in_the_ad() {
    let starter = Arc::new(Starter::default());
    let bed = bed(&starter, End::WhenStopped, BTreeMap::new()).await;
    let stop = async {
        eventually("the phase", || {
            starter.has_set("ChirpCtsPhase", "\"running\"")
        })
        .await;
        bed.shutdown.request(15);
    };
    let (status, ()) = tokio::join!(bed.run(), stop);
    assert_eq!(status.code(), 143);
    bed.pool.end().await;
    // It waits a second at most; the rest may come later.
    eventually("the end", || {
        starter.has_set("ChirpCtsAttempt", "1") && starter.has_set("ChirpCtsPhase", "\"ended\"")
    })
    .await;
    let set = starter.set.lock().unwrap();
    let is_id = |value: &str| value.starts_with("\"fake-");
    let container = |(name, value): &(String, String)| name == "ChirpCtsContainer" && is_id(value);
    assert!(set.iter().any(container), "{set:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_in_the_ad_quoted() {
    let starter = Arc::new(Starter::default());
    let error = cts_executor::container_engine::EngineError::ContainerGone {
        id: "a \"b\" \\ c".to_owned(),
    };
    let bed = bed(&starter, End::Error(error), BTreeMap::new()).await;
    assert_eq!(bed.run().await.code(), 1);
    bed.pool.end().await;
    let message = r#""container a \"b\" \\ c was removed by someone else while it ran [container_lost, blame site, retry elsewhere]""#;
    eventually("the message", || {
        starter.has_set("ChirpCtsMessage", message)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_starter_that_refuses_disturbs_nothing() {
    let starter = Arc::new(Starter {
        refuses: true,
        ..Starter::default()
    });
    let end = End::Exit {
        code: 0,
        oom_killed: false,
    };
    let bed = bed(&starter, end, BTreeMap::new()).await;
    assert_eq!(bed.run().await.code(), 0);
    bed.pool.end().await;
    assert!(starter.set.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_the_service_is_waited_for_is_in_the_ad() {
    let starter = Arc::new(Starter::default());
    let away = BTreeMap::from([(1, Answer::Html { status: 502 }), (2, Answer::Never)]);
    let bed = bed(&starter, End::WhenStopped, away).await;
    let clock = bed.stepped.clone().unwrap();
    let stop = async {
        eventually("the next try", || {
            clock.advance(std::time::Duration::from_secs(5));
            bed.service.calls().len() == 2
        })
        .await;
        bed.shutdown.request(15);
    };
    let (status, ()) = tokio::join!(bed.run(), stop);
    assert_eq!(status.code(), 143);
    bed.pool.end().await;
    let is_wait = |value: &str| value.starts_with("\"waiting for the service since ");
    let told = |(name, value): &(String, String)| name == "ChirpCtsMessage" && is_wait(value);
    eventually("the message", || {
        starter.set.lock().unwrap().iter().any(told)
    })
    .await;
}
