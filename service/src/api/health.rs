//! `GET /livez`: the process runs and answers. Says nothing about what it depends on.

/// `GET /livez`
pub async fn live() -> &'static str {
    "ok\n"
}
