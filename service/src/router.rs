//! The URL space.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{OriginalUri, Request, State};
use axum::http::{Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, any, delete, get, post, put};
use tower::{Layer, Service, ServiceExt};

use crate::api::error::ApiError;
use crate::api::request_context::{with_context, with_route};
use crate::api::{
    admin_jobs, attempts, callbacks, docs, events, external_exec, extract, health, images,
    job_lists, jobs, logs, metrics, nersc, notifications, refdata, response_headers, root, sites,
    worker_files,
};
use crate::app::App;
use crate::error::Error;

/// What to do about a request that took too long: whatever was slow may be better by then.
const RETRY_SLOW_REQUEST_AFTER: Duration = Duration::from_secs(60);

/// The service: every route, and what happens to every request before routing.
pub fn service(
    app: Arc<App>,
) -> impl Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
    let router = routes(app.config.root_path.as_deref())
        .router
        .fallback(|| async { extract::not_found() })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(from_fn_with_state(
            app.config.request_limits.timeout,
            with_timeout,
        ))
        .layer(from_fn(with_route))
        .with_state(Arc::clone(&app));
    let cors = response_headers::cors(&app.config.cors_origins);
    // Around the router, not in it: what it does comes before routing.
    let service = from_fn_with_state(app, with_context).layer(router);
    // A router that routes nothing: it only puts the layers around the service.
    let mut service = Router::new()
        .fallback_service(service)
        .layer(response_headers::compression());
    if let Some(cors) = cors {
        let without = service.clone();
        service = service
            .layer(cors)
            .layer(from_fn_with_state(without, only_preflights));
    }
    service.layer(from_fn(response_headers::security_headers))
}

/// Hides what is no preflight from the CORS layer, which answers every OPTIONS as if it were one.
async fn only_preflights(State(service): State<Router>, request: Request, next: Next) -> Response {
    let asks_leave = request
        .headers()
        .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() == Method::OPTIONS && !asks_leave {
        service.oneshot(request).await.into_response()
    } else {
        next.run(request).await
    }
}

/// Gives a request up whose answer does not begin in time.
async fn with_timeout(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => ApiError::from(Error::Unavailable {
            message: format!(
                "the request took longer than {} s; it may have had its effect: look before you \
                 send it again",
                limit.as_secs()
            ),
            retry_after: RETRY_SLOW_REQUEST_AFTER,
        })
        .into_response(),
    }
}

/// Every path as the router has it: parameters in braces, `{*rest}` for one that takes the rest of the
/// path. For what has to be complete: tests, the API's description.
#[must_use]
pub fn paths() -> Vec<String> {
    routes(None).paths
}

/// `root_path` is the prefix that a reverse proxy takes away.
fn routes(root_path: Option<&str>) -> Routes {
    Routes::default()
        .root("/", get(root::root))
        .route("/whoami", get(root::who_am_i))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/sites", get(sites::list))
        .route("/events", get(events::follow))
        .route("/images", get(images::list_images))
        .rest("/images/", get(images::get))
        .route("/refdata", get(refdata::list))
        .route("/refdata/id/{refdata_id}", get(refdata::by_id))
        .rest("/refdata/path/", get(refdata::by_path))
        .route("/jobs", get(job_lists::list_own).post(jobs::submit))
        .route("/jobs/{job_id}", get(jobs::get))
        .route("/jobs/{job_id}/status", get(jobs::status))
        .route("/jobs/{job_id}/exit_codes", get(jobs::exit_codes))
        .route("/jobs/{job_id}/cancel", put(jobs::cancel))
        .route(
            "/jobs/{job_id}/log/{container_num}/stdout",
            get(logs::stdout),
        )
        .route(
            "/jobs/{job_id}/log/{container_num}/stderr",
            get(logs::stderr),
        )
        .route("/admin/jobs", get(job_lists::list_all))
        .route("/admin/jobs/{job_id}", get(admin_jobs::get))
        .route(
            "/admin/jobs/{job_id}/exit_codes",
            get(admin_jobs::exit_codes),
        )
        .route(
            "/admin/jobs/{job_id}/container",
            get(admin_jobs::containers),
        )
        .route(
            "/admin/jobs/{job_id}/container/{container_num}",
            get(admin_jobs::container),
        )
        .route(
            "/admin/jobs/{job_id}/runner_status",
            get(admin_jobs::runner_status),
        )
        .route("/admin/jobs/{job_id}/cancel", put(admin_jobs::cancel_any))
        .route("/admin/jobs/{job_id}/meta", put(admin_jobs::change_meta))
        .route("/admin/jobs/{job_id}/notify", put(notifications::resend))
        .route("/admin/jobs/{job_id}/clean", delete(admin_jobs::clean_job))
        .rest(
            "/admin/images/",
            post(images::register).delete(images::delete),
        )
        // One route for four: the path of `POST` may be any.
        .rest(
            "/admin/refdata/",
            post(refdata::register)
                .get(refdata::admin_view)
                .put(refdata::recover)
                .delete(refdata::clean),
        )
        .route(
            "/admin/sites/{site}/active",
            put(sites::activate).delete(sites::deactivate),
        )
        .route("/admin/clients/nersc", get(nersc::client_info))
        .route("/admin/unsent_notifications", post(notifications::unsent))
        .route("/callback/download/{job_id}", get(callbacks::job))
        .route("/callback/job/{job_id}", get(callbacks::job))
        .route("/callback/upload/{job_id}", get(callbacks::job))
        .route("/callback/errlogs/{job_id}", get(callbacks::job))
        .route(
            "/callback/refdata_download/{refdata_id}/{cluster}",
            get(callbacks::refdata),
        )
        .route(
            "/external_exec/jobs/{job_id}/container/{container_num}/update/{new_state}",
            put(external_exec::update_container),
        )
        .route(
            "/external_exec/jobs/{job_id}/container/{container_num}/attempts",
            post(attempts::announce),
        )
        .route(
            "/external_exec/jobs/{job_id}/container/{container_num}/attempts/{attempt}",
            put(attempts::renew),
        )
        .route(
            "/external_exec/refdata/{refdata_id}/{cluster}/update/{new_state}",
            put(refdata::update),
        )
        .route(
            "/external_exec/files/condor/executable.sh",
            get(worker_files::executable),
        )
        .route(
            "/external_exec/files/code_archive.tgz",
            get(worker_files::archive),
        )
        .route("/openapi.json", docs::document(root_path))
        .route("/docs", get(docs::page))
        .route("/docs/{file}", get(docs::asset))
        .route("/redoc", docs::redoc(root_path))
}

#[derive(Default)]
struct Routes {
    router: Router<Arc<App>>,
    paths: Vec<String>,
}

impl Routes {
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

    /// A path of which the rest, slashes included, is one parameter, which may be empty.
    fn rest(self, path: &str, methods: MethodRouter<Arc<App>>) -> Self {
        let mut routes = self.root(&format!("{path}{{*rest}}"), methods.clone());
        routes.router = routes.router.route(path, methods);
        routes
    }
}

/// 307 to the same path without the slash, query kept. Told relative to the path asked for, which a
/// proxy may have shortened.
async fn without_slash(OriginalUri(uri): OriginalUri) -> Response {
    let path = uri.path().trim_end_matches('/');
    let last = path.rsplit('/').next().unwrap_or_default();
    let target = match uri.query() {
        Some(query) => format!("../{last}?{query}"),
        None => format!("../{last}"),
    };
    Redirect::temporary(&target).into_response()
}
