//! The URL space.

use std::sync::Arc;

use axum::Router;
use axum::extract::{OriginalUri, Request};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, any, get, post, put};
use tower::{Layer, Service};

use crate::api::error::ApiError;
use crate::api::request_context::with_context;
use crate::api::{docs, external_exec, extract, health, images, jobs, root, sites};
use crate::app::App;

/// The service: every route, and what happens to every request before routing.
pub fn service(
    app: Arc<App>,
) -> impl Service<Request, Response = Response, Error = std::convert::Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    let router = routes()
        .router
        .fallback(|| async { extract::not_found() })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .with_state(Arc::clone(&app));
    // Around the router, not in it: what it does comes before routing.
    axum::middleware::from_fn_with_state(app, with_context).layer(router)
}

/// Every path that is served, as the API's description writes them; the tests compare the two.
#[must_use]
pub fn paths() -> Vec<String> {
    routes().paths
}

fn routes() -> Routes {
    Routes::default()
        .root("/", get(root::root))
        .route("/whoami", get(root::who_am_i))
        .route("/livez", get(health::live))
        .route("/sites", get(sites::list))
        .route("/images", get(images::list))
        .rest("/images/", get(images::get), get(images::get_nameless))
        .route("/jobs", post(jobs::submit))
        .route("/jobs/{job_id}", get(jobs::get))
        .route("/jobs/{job_id}/status", get(jobs::status))
        .route("/jobs/{job_id}/exit_codes", get(jobs::exit_codes))
        .route("/jobs/{job_id}/cancel", put(jobs::cancel))
        .route(
            "/jobs/{job_id}/log/{container_num}/stdout",
            get(jobs::stdout_log),
        )
        .route(
            "/jobs/{job_id}/log/{container_num}/stderr",
            get(jobs::stderr_log),
        )
        .route("/admin/jobs/{job_id}", get(jobs::admin_get))
        .route(
            "/admin/jobs/{job_id}/container",
            get(jobs::admin_containers),
        )
        .rest(
            "/admin/images/",
            post(images::register),
            any(images::get_nameless),
        )
        .route(
            "/external_exec/jobs/{job_id}/container/{container_num}/update/{new_state}",
            put(external_exec::update_container),
        )
        .route("/openapi.json", docs::document(None))
        .route("/docs", get(docs::page))
        .root("/docs/{file}", get(docs::asset))
        .route("/redoc", docs::redoc(None))
}

#[derive(Default)]
struct Routes {
    router: Router<Arc<App>>,
    paths: Vec<String>,
}

impl Routes {
    /// A path that is found as it is only.
    fn root(mut self, path: &str, methods: MethodRouter<Arc<App>>) -> Self {
        self.paths.push(path.to_owned());
        self.router = self.router.route(path, methods);
        self
    }

    /// A path, which is also found with a slash at its end.
    fn route(self, path: &str, methods: MethodRouter<Arc<App>>) -> Self {
        let mut routes = self.root(path, methods);
        routes.router = routes.router.route(&format!("{path}/"), any(without_slash));
        routes
    }

    /// A path of which the rest, slashes included, is one parameter; `empty` answers when the rest
    /// is empty.
    fn rest(
        mut self,
        path: &str,
        methods: MethodRouter<Arc<App>>,
        empty: MethodRouter<Arc<App>>,
    ) -> Self {
        self.paths.push(format!("{path}{{*rest}}"));
        self.router = self
            .router
            .route(&format!("{path}{{*rest}}"), methods)
            .route(path, empty);
        self
    }
}

/// 307 to the same path without the slash, query kept.
async fn without_slash(OriginalUri(uri): OriginalUri) -> Response {
    let path = uri.path().trim_end_matches('/');
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    Redirect::temporary(&target).into_response()
}
