//! A store copied into another: looked at, copied, read back. Knows nothing of either but [`StoreCopy`].
//!
//! Nothing in the target is ever changed or removed. What is there must be what the source has, so a run
//! that was killed is simply run again: it finds what is there, and copies the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use futures::future::{ready, try_join};
use futures::stream::{self, StreamExt, TryStreamExt};

use cts_shared::id::{JobId, RefdataId};
use cts_shared::wire::image::Image;

use crate::image_store::Inserted;
use crate::job_store::StoreError;
use crate::lease_store::LeaseRequest;
use crate::refdata_store::Refdata;
use crate::store_copy::{KeptLease, Sizes, StoreCopy, TimeUnit, WholeJob, read_whole_job};

use super::progress::Progress;

/// Jobs being copied or compared at a time, each whole in memory.
const AT_ONCE: usize = 8;
/// Ids of jobs read at a time.
const PAGE: usize = 1000;
/// Faults that are told; more are counted.
const MAX_FAULTS: usize = 1000;

/// Why a run ended before its end, or found the stores to differ.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A store failed.
    #[error(
        "the {side} failed{}: {error}; correct that and start the same command again, it goes on",
        what.as_ref().map(|what| format!(" at {what}")).unwrap_or_default()
    )]
    Store {
        /// Which store.
        side: Side,
        /// At which record, if it was a single one's.
        what: Option<String>,
        /// What it said.
        error: StoreError,
    },
    /// What the target has is not what the source has.
    #[error(
        "the target has something else than the source, and nothing was written:\n{0}give an empty target, \
         or the one that an earlier run of this command has begun"
    )]
    OtherTarget(Faults),
    /// Records that could not be copied.
    #[error(
        "not everything could be copied:\n{0}all other records are there; correct or remove these, and \
         start the same command again"
    )]
    NotCopied(Faults),
    /// The stores are not the same.
    #[error(
        "the stores are not the same:\n{0}make sure that no service works on either, and copy to an empty target"
    )]
    Different(Faults),
}

/// One of the two stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that is read.
    Source,
    /// The copy.
    Target,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// What is wrong with single records, a sentence each.
#[derive(Debug, Default)]
pub struct Faults {
    told: BTreeSet<String>,
    untold: usize,
}

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for fault in &self.told {
            writeln!(f, "  {fault}")?;
        }
        if self.untold > 0 {
            writeln!(f, "  and {} more", self.untold)?;
        }
        Ok(())
    }
}

/// What two stores that are the same hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs.
    pub jobs: u64,
    /// Their containers.
    pub containers: u64,
    /// Their transitions.
    pub transitions: u64,
    /// Images.
    pub images: u64,
    /// Reference data.
    pub refdata: u64,
    /// Sites that are switched off.
    pub inactive_sites: u64,
}

/// Copies what the target lacks, and then compares everything.
///
/// # Errors
/// [`CopyError`]; the target is then a part of the source, or as it was.
pub async fn copy(
    source: &dyn StoreCopy,
    target: &dyn StoreCopy,
    progress: &Progress,
) -> Result<Counts, CopyError> {
    let pair = Pair::new(source, target, progress);
    source.settle().await.map_err(failed(Side::Source))?;

    let jobs = pair.sizes(Side::Source).await?.jobs;
    progress.begin("looking at the target", jobs);
    pair.compare(Missing::IsFine).await?;
    pair.faults_as(CopyError::OtherTarget)?;

    progress.begin("copying", jobs);
    pair.copy_leases().await?;
    pair.copy_sites().await?;
    pair.copy_images().await?;
    pair.copy_refdata().await?;
    pair.copy_jobs().await?;
    pair.faults_as(CopyError::NotCopied)?;

    pair.check().await
}

/// Compares everything.
///
/// # Errors
/// [`CopyError::Different`] with every record that is not the same, or when a store fails.
pub async fn check(
    source: &dyn StoreCopy,
    target: &dyn StoreCopy,
    progress: &Progress,
) -> Result<Counts, CopyError> {
    let pair = Pair::new(source, target, progress);
    source.settle().await.map_err(failed(Side::Source))?;
    pair.check().await
}

/// Whether the target may lack what the source has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsFine,
    IsAFault,
}

/// Where there is a job of an id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sides {
    source: bool,
    target: bool,
}

struct Pair<'a> {
    source: &'a dyn StoreCopy,
    target: &'a dyn StoreCopy,
    /// Times are compared in the coarser unit of the two.
    unit: TimeUnit,
    progress: &'a Progress,
    faults: Mutex<Faults>,
}

/// What was seen of jobs that both stores have.
#[derive(Debug, Default)]
struct Seen {
    /// Jobs in the source, readable or not.
    source_jobs: AtomicU64,
    /// Jobs in the target.
    target_jobs: AtomicU64,
    /// Jobs that both have.
    jobs: AtomicU64,
    containers: AtomicU64,
    transitions: AtomicU64,
    /// Of `transitions`, those in the log.
    logged: AtomicU64,
}

impl<'a> Pair<'a> {
    fn new(source: &'a dyn StoreCopy, target: &'a dyn StoreCopy, progress: &'a Progress) -> Self {
        Self {
            source,
            target,
            unit: source.time_unit().max(target.time_unit()),
            progress,
            faults: Mutex::default(),
        }
    }

    fn store(&self, side: Side) -> &'a dyn StoreCopy {
        match side {
            Side::Source => self.source,
            Side::Target => self.target,
        }
    }

    async fn sizes(&self, side: Side) -> Result<Sizes, CopyError> {
        self.store(side).sizes().await.map_err(failed(side))
    }

    fn fault(&self, fault: String) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.told.len() < MAX_FAULTS {
            faults.told.insert(fault);
        } else if !faults.told.contains(&fault) {
            faults.untold += 1;
        }
    }

    /// Ends a stage: an error if it has found faults.
    fn faults_as(&self, error: impl FnOnce(Faults) -> CopyError) -> Result<(), CopyError> {
        let faults =
            std::mem::take(&mut *self.faults.lock().unwrap_or_else(PoisonError::into_inner));
        if faults.told.is_empty() {
            Ok(())
        } else {
            Err(error(faults))
        }
    }

    /// A fault of one record is noted, and the run goes on; anything else ends it.
    fn note<T>(
        &self,
        side: Side,
        what: &str,
        result: Result<T, StoreError>,
    ) -> Result<Option<T>, CopyError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(
                error @ (StoreError::Corrupt { .. }
                | StoreError::Gone { .. }
                | StoreError::Duplicate { .. }),
            ) => {
                self.fault(format!("{what} in the {side}: {error}"));
                Ok(None)
            }
            Err(error) => Err(CopyError::Store {
                side,
                what: Some(what.to_owned()),
                error,
            }),
        }
    }

    // --- comparing -------------------------------------------------------------------------------

    async fn check(&self) -> Result<Counts, CopyError> {
        self.progress
            .begin("checking", self.sizes(Side::Source).await?.jobs);
        let counts = self.compare(Missing::IsAFault).await?;
        self.faults_as(CopyError::Different)?;
        Ok(counts)
    }

    async fn compare(&self, missing: Missing) -> Result<Counts, CopyError> {
        if missing == Missing::IsAFault {
            self.compare_leases().await?;
        }
        let inactive_sites = self.compare_sites(missing).await?;
        let images = self.compare_images(missing).await?;
        let refdata = self.compare_refdata(missing).await?;
        let seen = Seen::default();
        let seen_too = &seen;
        self.for_each_job(|id, sides| async move {
            self.compare_job(&id, sides, missing, seen_too).await
        })
        .await?;
        if missing == Missing::IsAFault {
            self.compare_sizes(&seen).await?;
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Counts {
            jobs: count(&seen.jobs),
            containers: count(&seen.containers),
            transitions: count(&seen.transitions),
            images,
            refdata,
            inactive_sites,
        })
    }

    async fn compare_job(
        &self,
        id: &str,
        sides: Sides,
        missing: Missing,
        seen: &Seen,
    ) -> Result<(), CopyError> {
        let add = |counter: &AtomicU64, more: usize| {
            counter.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Ordering::Relaxed);
        };
        add(&seen.source_jobs, usize::from(sides.source));
        add(&seen.target_jobs, usize::from(sides.target));
        match sides {
            Sides { source: false, .. } => {
                self.fault(format!("job {id} is in the target and not in the source"));
                return Ok(());
            }
            Sides { target: false, .. } => {
                if missing == Missing::IsAFault {
                    self.fault(format!("job {id} is not in the target"));
                }
                return Ok(());
            }
            _ => {}
        }
        let (ours, theirs) =
            try_join(self.read(Side::Source, id), self.read(Side::Target, id)).await?;
        let (Some(ours), Some(theirs)) = (ours, theirs) else {
            return Ok(());
        };
        add(&seen.jobs, 1);
        add(&seen.containers, ours.containers.len());
        add(&seen.transitions, ours.job.summary.transitions.len());
        add(&seen.logged, ours.log.len());
        let differences = ours
            .with_times_in(self.unit)
            .differences(theirs.with_times_in(self.unit));
        if !differences.is_empty() {
            self.fault(format!(
                "job {id} is another in the target, in: {}",
                differences.join(", ")
            ));
        }
        Ok(())
    }

    /// Reads a job; none if it cannot be read, which is noted.
    async fn read(&self, side: Side, id: &str) -> Result<Option<WholeJob>, CopyError> {
        let what = format!("job {id}");
        let store = self.store(side);
        let Some(job_id) = id.parse::<JobId>().ok().filter(|job| job.to_string() == id) else {
            self.fault(format!(
                "{what} in the {side}: its id is no UUID in lower case"
            ));
            return Ok(None);
        };
        let read = self.note(side, &what, read_whole_job(store, job_id).await)?;
        if matches!(read, Some(None)) {
            self.fault(format!(
                "{what} in the {side} was removed meanwhile; stop every service"
            ));
        }
        Ok(read.flatten())
    }

    /// What single records do not show: documents that are no jobs, transitions of no job.
    async fn compare_sizes(&self, seen: &Seen) -> Result<(), CopyError> {
        for (side, sizes, jobs) in [
            (
                Side::Source,
                self.sizes(Side::Source).await?,
                &seen.source_jobs,
            ),
            (
                Side::Target,
                self.sizes(Side::Target).await?,
                &seen.target_jobs,
            ),
        ] {
            let jobs = jobs.load(Ordering::Relaxed);
            if sizes.jobs != jobs {
                self.fault(format!(
                    "only {jobs} of {} jobs in the {side} have a text as id; correct or remove the others",
                    sizes.jobs
                ));
            }
        }
        // Jobs that are missing or cannot be read are told of already. The source's log may have
        // transitions of jobs that somebody has removed.
        let logged = seen.logged.load(Ordering::Relaxed);
        let all_read =
            seen.target_jobs.load(Ordering::Relaxed) == seen.jobs.load(Ordering::Relaxed);
        let in_log = self.sizes(Side::Target).await?.log;
        if all_read && in_log != logged {
            self.fault(format!(
                "of {in_log} transitions in the log of the target, {logged} are of jobs that are there"
            ));
        }
        Ok(())
    }

    async fn compare_images(&self, missing: Missing) -> Result<u64, CopyError> {
        let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
        for (side, images) in [(Side::Source, &mut ours), (Side::Target, &mut theirs)] {
            for image in self.images(side).await? {
                // What cannot be read in the source is told when it is to be copied.
                let image = match image {
                    Err(_) if side == Side::Source && missing == Missing::IsFine => continue,
                    image => self.note(side, "an image", image)?,
                };
                let Some(image) = image else { continue };
                images.insert(
                    (image.image.name.clone(), image.image.digest.clone()),
                    image,
                );
            }
        }
        let mut same = 0;
        for ((name, digest), image) in &theirs {
            let fault = match ours.get(&(name.clone(), digest.clone())) {
                None => "is in the target and not in the source",
                Some(ours) if ours != image => "is another in the target",
                Some(_) => {
                    same += 1;
                    continue;
                }
            };
            self.fault(format!("image {name}@{digest} {fault}"));
        }
        if missing == Missing::IsAFault {
            for (name, digest) in ours.keys().filter(|key| !theirs.contains_key(key)) {
                self.fault(format!("image {name}@{digest} is not in the target"));
            }
        }
        Ok(same)
    }

    /// The images as they are compared.
    async fn images(&self, side: Side) -> Result<Vec<Result<Image, StoreError>>, CopyError> {
        let store = self.store(side);
        let mut images = store.all_images().await.map_err(failed(side))?;
        for image in images.iter_mut().flatten() {
            image.image.registered_on = self.unit.cut(image.image.registered_on);
        }
        Ok(images)
    }

    async fn compare_refdata(&self, missing: Missing) -> Result<u64, CopyError> {
        let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
        for (side, all) in [(Side::Source, &mut ours), (Side::Target, &mut theirs)] {
            for refdata in self.refdata(side).await? {
                // What cannot be read in the source is told when it is to be copied.
                let refdata = match refdata {
                    Err(_) if side == Side::Source && missing == Missing::IsFine => continue,
                    refdata => self.note(side, "reference data", refdata)?,
                };
                if let Some(refdata) = refdata {
                    all.insert(refdata.id.clone(), refdata);
                }
            }
        }
        let mut same = 0;
        for (id, refdata) in &theirs {
            let fault = match ours.get(id) {
                None => "is in the target and not in the source",
                Some(ours) if ours != refdata => "is another in the target",
                Some(_) => {
                    same += 1;
                    continue;
                }
            };
            self.fault(format!("reference data {id} {fault}"));
        }
        if missing == Missing::IsAFault {
            for id in ours.keys().filter(|id| !theirs.contains_key(id)) {
                self.fault(format!("reference data {id} is not in the target"));
            }
        }
        Ok(same)
    }

    /// The reference data as it is compared.
    async fn refdata(&self, side: Side) -> Result<Vec<Result<Refdata, StoreError>>, CopyError> {
        let store = self.store(side);
        let mut all = store.all_refdata().await.map_err(failed(side))?;
        for refdata in all.iter_mut().flatten() {
            refdata.registered_on = self.unit.cut(refdata.registered_on);
            let statuses = refdata.statuses.iter_mut();
            for transition in statuses.flat_map(|status| &mut status.status.transition_times) {
                transition.time = self.unit.cut(transition.time);
            }
        }
        Ok(all)
    }

    async fn compare_sites(&self, missing: Missing) -> Result<u64, CopyError> {
        let ours = self.source.inactive_sites().await;
        let ours = ours.map_err(failed(Side::Source))?;
        let theirs = self.target.inactive_sites().await;
        let theirs = theirs.map_err(failed(Side::Target))?;
        for site in theirs.difference(&ours) {
            self.fault(format!(
                "site {site} is switched off in the target and not in the source"
            ));
        }
        if missing == Missing::IsAFault {
            for site in ours.difference(&theirs) {
                self.fault(format!("site {site} is not switched off in the target"));
            }
        }
        Ok(u64::try_from(ours.len()).unwrap_or(u64::MAX))
    }

    async fn compare_leases(&self) -> Result<(), CopyError> {
        let names = |leases: Vec<KeptLease>| -> BTreeSet<String> {
            leases.into_iter().map(|lease| lease.name).collect()
        };
        let ours = names(self.source.leases().await.map_err(failed(Side::Source))?);
        let theirs = names(self.target.leases().await.map_err(failed(Side::Target))?);
        for name in ours.difference(&theirs) {
            self.fault(format!("the lease {name:?} is not in the target"));
        }
        Ok(())
    }

    // --- copying ---------------------------------------------------------------------------------

    /// Leases that were not given back: what they protect may be half done, and whoever takes one over must
    /// know. Nobody holds the copy.
    async fn copy_leases(&self) -> Result<(), CopyError> {
        for lease in self.source.leases().await.map_err(failed(Side::Source))? {
            let long_ago = cts_shared::timestamp::UtcTime::new(jiff::Timestamp::UNIX_EPOCH);
            self.target
                .take_lease(LeaseRequest {
                    name: lease.name,
                    holder: lease.holder,
                    now: long_ago,
                    until: long_ago,
                })
                .await
                .map_err(failed(Side::Target))?;
        }
        Ok(())
    }

    async fn copy_sites(&self) -> Result<(), CopyError> {
        let inactive = self.source.inactive_sites().await;
        for site in inactive.map_err(failed(Side::Source))? {
            let set = self.target.set_site_active(site, false).await;
            set.map_err(failed(Side::Target))?;
        }
        Ok(())
    }

    /// One after the other: lists show images of one name in the order of their registration.
    async fn copy_images(&self) -> Result<(), CopyError> {
        let there: BTreeSet<(String, String)> = self
            .images(Side::Target)
            .await?
            .into_iter()
            .flatten()
            .map(|image| (image.image.name, image.image.digest))
            .collect();
        for image in self.images(Side::Source).await? {
            let Some(image) = self.note(Side::Source, "an image", image)? else {
                continue;
            };
            let (name, digest) = (image.image.name.clone(), image.image.digest.clone());
            if there.contains(&(name.clone(), digest.clone())) {
                continue;
            }
            let inserted = self.target.insert_image(image).await;
            if inserted.map_err(failed(Side::Target))? != Inserted::Yes {
                self.fault(format!(
                    "image {name}@{digest}: the target has another of that name and tag"
                ));
            }
        }
        Ok(())
    }

    async fn copy_refdata(&self) -> Result<(), CopyError> {
        let there = self.refdata(Side::Target).await?.into_iter().flatten();
        let there: BTreeSet<RefdataId> = there.map(|refdata| refdata.id).collect();
        let store = self.store(Side::Source);
        for refdata in store.all_refdata().await.map_err(failed(Side::Source))? {
            let Some(refdata) = self.note(Side::Source, "reference data", refdata)? else {
                continue;
            };
            if there.contains(&refdata.id) {
                continue;
            }
            let (id, file) = (refdata.id.clone(), refdata.file.clone());
            let inserted = self.target.insert_refdata(refdata).await;
            if !inserted.map_err(failed(Side::Target))? {
                self.fault(format!(
                    "reference data {id}: the target has other reference data of the file {file}"
                ));
            }
        }
        Ok(())
    }

    async fn copy_jobs(&self) -> Result<(), CopyError> {
        self.for_each_job(|id, sides| async move {
            if !sides.source || sides.target {
                return Ok(());
            }
            let Some(job) = self.read(Side::Source, &id).await? else {
                return Ok(());
            };
            let inserted = self.target.insert_whole_job(job).await;
            self.note(Side::Target, &format!("job {id}"), inserted)
                .map(drop)
        })
        .await
    }

    // --- both stores' jobs, side by side ---------------------------------------------------------

    async fn for_each_job<F>(&self, visit: impl Fn(String, Sides) -> F) -> Result<(), CopyError>
    where
        F: Future<Output = Result<(), CopyError>>,
    {
        let mut after = None;
        loop {
            let (ours, theirs) = try_join(
                async {
                    let ids = self.source.job_ids(after.clone(), PAGE).await;
                    ids.map_err(failed(Side::Source))
                },
                async {
                    let ids = self.target.job_ids(after.clone(), PAGE).await;
                    ids.map_err(failed(Side::Target))
                },
            )
            .await?;
            // After the last id of a full page, the store may have more.
            let known_until = [&ours, &theirs]
                .into_iter()
                .filter(|ids| ids.len() >= PAGE)
                .filter_map(|ids| ids.last())
                .min()
                .cloned();
            let mut jobs: BTreeMap<String, Sides> = BTreeMap::new();
            for id in ours {
                jobs.entry(id).or_default().source = true;
            }
            for id in theirs {
                jobs.entry(id).or_default().target = true;
            }
            if let Some(until) = &known_until {
                jobs.retain(|id, _| id <= until);
            }
            stream::iter(jobs)
                .map(|(id, sides)| visit(id, sides))
                .buffer_unordered(AT_ONCE)
                .inspect_ok(|()| self.progress.advance())
                .try_for_each(|()| ready(Ok(())))
                .await?;
            if known_until.is_none() {
                return Ok(());
            }
            after = known_until;
        }
    }
}

fn failed(side: Side) -> impl FnOnce(StoreError) -> CopyError {
    move |error| CopyError::Store {
        side,
        what: None,
        error,
    }
}
