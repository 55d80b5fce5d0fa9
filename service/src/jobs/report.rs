//! An executor reports a state of its container (contract service.md, section 5.2).

use std::sync::Arc;

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{Change, ContainerReport, Refusal, Reporter};

use crate::app::App;
use crate::compute_site::SiteEvent;
use crate::error::Error;

use super::{change, no_such_job};

/// Records the report and lifts the job's state, in one step. The same report again changes
/// nothing and is no fault.
///
/// # Errors
/// 40040, 100000, 30001 (data the state needs is missing), 40050 (no such container, or it is in a
/// state that the reported one cannot follow), 50200 (another executor's reports count), or a failure of
/// the store.
pub async fn report_container(
    app: &Arc<App>,
    job: JobId,
    container: ContainerNumber,
    report: ContainerReport,
) -> Result<(), Error> {
    let state = report.state;
    let change = change(app, job, move |record| {
        record.apply_report(container, &report)
    })
    .await?
    .ok_or_else(|| no_such_job(job))?;
    for transition in &change.transitions {
        tracing::info!(job.id = %job, job.state = %transition.state, "job changed state");
    }
    if !change.is_empty() {
        tracing::info!(job.id = %job, container.num = container, container.state = %state, "container changed state");
    }
    Ok(())
}

/// Acts on what a site noticed: a container whose executor is gone without an end reported ends in
/// error.
///
/// # Errors
/// A failure of the store.
pub async fn handle_site_event(app: &Arc<App>, event: SiteEvent) -> Result<(), Error> {
    let SiteEvent::ExecutorEnded {
        job,
        container,
        description,
        last_output,
    } = event;
    let report = ContainerReport {
        state: JobState::Error,
        time: app.clock.now(),
        exit_code: None,
        outputs: None,
        admin_error: Some(description.clone()),
        traceback: (!last_output.is_empty()).then_some(last_output),
        usage: None,
        from: Reporter::Site,
    };
    let change = change(app, job, move |record| {
        match record.apply_report(container, &report) {
            // The executor reported the end itself, as it should.
            Err(Refusal::ContainerState { current, .. }) if current.is_terminal() => {
                Ok(Change::default())
            }
            outcome => outcome,
        }
    })
    .await?;
    let Some(change) = change else {
        tracing::warn!(job.id = %job, "an executor ended that belongs to no stored job");
        return Ok(());
    };
    if !change.is_empty() {
        tracing::warn!(job.id = %job, container.num = container, reason = %description, "container lost its executor");
    }
    Ok(())
}
