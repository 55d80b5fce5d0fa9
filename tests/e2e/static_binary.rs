//! The executor as one static file: `make static` builds it.
//!
//! What it must do with nothing around it is tested under chroot, where there is nothing. DNS needs
//! port 53, so these tests run as root: an ordinary user becomes root of a namespace of its own, see
//! [`empty_tree::rerun_as_root`].

mod empty_tree;
mod name_server;
mod tls_service;

use std::path::PathBuf;
use std::process::Command;

use cts_tests::binaries;

use empty_tree::{EmptyTree, rerun_as_root};
use name_server::NameServer;
use tls_service::{ServerCertificate, TlsService};

/// `.test` is no one's (RFC 6761, section 6.2): what resolves it is the test's own.
const HOST: &str = "service.cts.test";

/// The static build. `make test` makes it first; a missing one fails the test.
fn binary() -> PathBuf {
    binaries::static_executor().unwrap_or_else(|error| panic!("{error}"))
}

/// Also a small one: `make static` sees to that.
#[test]
fn is_one_static_file() {
    let output = Command::new("ldd").arg(binary()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let is_static = text.contains("statically linked") || text.contains("not a dynamic executable");
    assert!(is_static, "ldd says: {text}");
}

#[tokio::test]
async fn starts_in_an_empty_directory_tree() {
    if rerun_as_root("static_binary::starts_in_an_empty_directory_tree").await {
        return;
    }
    let outcome = EmptyTree::new(&binary()).run(&["--version"], &[]).await;
    outcome.check(outcome.success, "success");
    outcome.check(outcome.stdout.starts_with("cts-executor "), "the version");
}

/// A tree whose `/ca.pem` is the authority of `service`, and the file's variable.
fn tree_that_trusts(service: &TlsService) -> (EmptyTree, [(&'static str, String); 1]) {
    let tree = EmptyTree::new(&binary()).file("ca.pem", &service.authority_pem);
    (tree, [("SSL_CERT_FILE", "/ca.pem".to_owned())])
}

fn hosts_file() -> String {
    format!("127.0.0.1 {HOST}\n")
}

#[tokio::test]
async fn resolves_names_from_the_hosts_file() {
    if rerun_as_root("static_binary::resolves_names_from_the_hosts_file").await {
        return;
    }
    let service = TlsService::start(HOST, ServerCertificate::Good).await;
    let (tree, trust) = tree_that_trusts(&service);
    let tree = tree.file("etc/hosts", &hosts_file());
    let outcome = tree.doctor(&service.url, &trust).await;
    outcome.check_line("service", "ok", &["CDM Task Service"]);
}

#[tokio::test]
async fn resolves_names_by_dns() {
    if rerun_as_root("static_binary::resolves_names_by_dns").await {
        return;
    }
    let service = TlsService::start(HOST, ServerCertificate::Good).await;
    let name_server = NameServer::start(HOST).await;
    let (tree, trust) = tree_that_trusts(&service);
    let tree = tree.file("etc/resolv.conf", &name_server.resolv_conf());
    let outcome = tree.doctor(&service.url, &trust).await;
    outcome.check_line("service", "ok", &["CDM Task Service"]);
    outcome.check(name_server.was_asked(), "a question to the name server");
}

#[tokio::test]
async fn says_which_name_cannot_be_resolved() {
    if rerun_as_root("static_binary::says_which_name_cannot_be_resolved").await {
        return;
    }
    let name_server = NameServer::start(HOST).await;
    let tree = EmptyTree::new(&binary()).file("etc/resolv.conf", &name_server.resolv_conf());
    let url = "https://absent.cts.test:1/";
    let outcome = tree.doctor(url, &[]).await;
    outcome.check_line(
        "service",
        "FAIL",
        &["absent.cts.test", "lookup", "SERVICE_ROOT_URL"],
    );
}

/// The host's name services are not ours: their modules belong to another glibc, and loading one
/// ends the process with SIGFPE. The first file is Debian's with systemd; under the second nothing
/// would resolve if it were obeyed.
#[tokio::test]
async fn resolves_names_whatever_the_hosts_name_services_are() {
    if rerun_as_root("static_binary::resolves_names_whatever_the_hosts_name_services_are").await {
        return;
    }
    let service = TlsService::start(HOST, ServerCertificate::Good).await;
    let name_server = NameServer::start(HOST).await;
    for nsswitch in [
        "passwd: files systemd\nhosts: files dns myhostname\n",
        "passwd: sss\nhosts: myhostname\n",
    ] {
        let (tree, trust) = tree_that_trusts(&service);
        let tree = tree
            .file("etc/nsswitch.conf", nsswitch)
            .file("etc/resolv.conf", &name_server.resolv_conf());
        let outcome = tree.doctor(&service.url, &trust).await;
        outcome.check_line("service", "ok", &["CDM Task Service"]);
    }
}

#[tokio::test]
async fn trusts_bundled_authorities_and_those_of_ssl_cert_file() {
    if rerun_as_root("static_binary::trusts_bundled_authorities_and_those_of_ssl_cert_file").await {
        return;
    }
    let service = TlsService::start(HOST, ServerCertificate::Good).await;
    let (tree, trust) = tree_that_trusts(&service);
    let tree = tree.file("etc/hosts", &hosts_file());
    let outcome = tree.doctor(&service.url, &trust).await;
    let line = outcome.check_line("tls", "ok", &["and 1 of this machine or SSL_CERT_FILE"]);
    let bundled = line.split_whitespace().find_map(|word| word.parse().ok());
    outcome.check(bundled > Some(100), "over 100 bundled authorities");
    outcome.check_line("service", "ok", &[]);
    outcome.check_line("token", "ok", &["e2e_user"]);
}

#[tokio::test]
async fn names_an_ssl_cert_file_that_cannot_be_read() {
    if rerun_as_root("static_binary::names_an_ssl_cert_file_that_cannot_be_read").await {
        return;
    }
    let trust = [("SSL_CERT_FILE", "/absent.pem".to_owned())];
    let outcome = EmptyTree::new(&binary()).run(&["doctor"], &trust).await;
    outcome.check_line("tls", "FAIL", &["/absent.pem", "SSL_CERT_FILE"]);
}

#[tokio::test]
async fn refuses_an_unknown_authority() {
    if rerun_as_root("static_binary::refuses_an_unknown_authority").await {
        return;
    }
    let service = TlsService::start(HOST, ServerCertificate::Good).await;
    let tree = EmptyTree::new(&binary()).file("etc/hosts", &hosts_file());
    let outcome = tree.doctor(&service.url, &[]).await;
    outcome.check_line("service", "FAIL", &["unknown issuer", "SSL_CERT_FILE"]);
    outcome.check(service.requests() == 0, "no request sent");
}

#[tokio::test]
async fn refuses_a_certificate_of_another_host() {
    if rerun_as_root("static_binary::refuses_a_certificate_of_another_host").await {
        return;
    }
    let service = TlsService::start(HOST, ServerCertificate::OfAnotherHost).await;
    let (tree, trust) = tree_that_trusts(&service);
    let tree = tree.file("etc/hosts", &hosts_file());
    let outcome = tree.doctor(&service.url, &trust).await;
    let words = [HOST, tls_service::OTHER_HOST, "check the host name"];
    outcome.check_line("service", "FAIL", &words);
    outcome.check(service.requests() == 0, "no request sent");
}

#[tokio::test]
async fn refuses_an_expired_certificate() {
    if rerun_as_root("static_binary::refuses_an_expired_certificate").await {
        return;
    }
    let service = TlsService::start(HOST, ServerCertificate::Expired).await;
    let (tree, trust) = tree_that_trusts(&service);
    let tree = tree.file("etc/hosts", &hosts_file());
    let outcome = tree.doctor(&service.url, &trust).await;
    outcome.check_line("service", "FAIL", &["certificate expired", "clock"]);
    outcome.check(service.requests() == 0, "no request sent");
}
