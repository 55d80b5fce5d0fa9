//! Moves the same files with every program in turn, several times, and puts the figures in a table.

use std::error::Error;
use std::fs::File;
use std::path::Path;

use cts_tests::markdown::Table;
use cts_tests::testbed::s3::S3Server;

use crate::measure::{Usage, measure};
use crate::programs::{Direction, Mover, Programs, Transfer, empty_dir};
use crate::progress;
use crate::statistics::Spread;
use crate::workload::Workload;

/// Buckets of the benchmark begin with this.
const BUCKET: &str = "cts-bench";

/// What all measurements share.
#[derive(Debug)]
pub(crate) struct SideBySide<'a> {
    pub(crate) s3: &'a S3Server,
    pub(crate) programs: &'a Programs,
    /// For the files.
    pub(crate) dir: &'a Path,
    /// Counted runs of each program.
    pub(crate) runs: u32,
}

impl SideBySide<'_> {
    /// Measures both directions of a workload; returns their tables.
    ///
    /// # Errors
    /// When a program fails or does not move everything.
    pub(crate) async fn measure(&self, workload: &Workload) -> Result<String, Box<dyn Error>> {
        progress(&format!("making {}", workload.title()));
        let source = workload.make(self.dir)?;
        let bucket = format!("{BUCKET}-{}", workload.name);
        self.store(workload, &source, &bucket).await?;
        let down = self
            .direction(workload, Direction::Download, &source, &bucket)
            .await?;
        self.s3.client()?.remove_bucket(&bucket).await?;
        let up = self
            .direction(workload, Direction::Upload, &source, &bucket)
            .await?;
        std::fs::remove_dir_all(source)?;
        std::fs::remove_dir_all(self.dir.join("downloaded"))?;
        let title = workload.title();
        Ok(format!(
            "## Side by side: {title}, download\n\n{down}\n## Side by side: {title}, upload\n\n{up}"
        ))
    }

    /// Stores the objects that are downloaded; keeps their checksums.
    async fn store(
        &self,
        workload: &Workload,
        source: &Path,
        bucket: &str,
    ) -> Result<(), Box<dyn Error>> {
        self.s3.client()?.create_bucket(bucket).await?;
        let transfer = Transfer {
            s3: self.s3,
            workload,
            bucket,
            dir: source,
            lists: self.dir,
        };
        let mover = Mover::Ours {
            sign_payload: false,
        };
        let mut command = transfer
            .command(self.programs, mover, Direction::Upload)
            .await?;
        command.stdout(File::create(transfer.checksum_list())?);
        tokio::task::spawn_blocking(move || measure(&mut command)).await??;
        rustix::fs::sync();
        Ok(())
    }

    async fn direction(
        &self,
        workload: &Workload,
        direction: Direction,
        source: &Path,
        bucket: &str,
    ) -> Result<Table, Box<dyn Error>> {
        let movers = Mover::all(direction);
        let mut usages = vec![Vec::new(); movers.len()];
        // Round 0 warms caches and is not counted. A large file is in them: it was stored just now.
        let first_round = u32::from(workload.files == 1);
        for round in first_round..=self.runs {
            // Each begins a round once.
            let first = usize::try_from(round)? % movers.len();
            let order = (first..movers.len()).chain(0..first);
            for index in order {
                let Some((&mover, usages)) = movers.get(index).zip(usages.get_mut(index)) else {
                    continue;
                };
                let usage = match direction {
                    Direction::Download => {
                        let dir = format!("{}-{round}-{index}", workload.name);
                        let dir = self.dir.join("downloaded").join(dir);
                        self.download(workload, mover, bucket, &dir).await?
                    }
                    Direction::Upload => {
                        let bucket = format!("{BUCKET}-{}-{round}-{index}", workload.name);
                        self.upload(workload, mover, source, &bucket).await?
                    }
                };
                progress(&format!(
                    "{}, {direction:?}, round {round}: {} {:.2} s, {:.2} CPU s",
                    workload.title(),
                    mover.name(),
                    usage.wall.as_secs_f64(),
                    usage.cpu.as_secs_f64(),
                ));
                if round > 0 {
                    usages.push(usage);
                }
            }
        }
        Ok(table(workload, direction, movers, &usages))
    }

    async fn download(
        &self,
        workload: &Workload,
        mover: Mover,
        bucket: &str,
        dir: &Path,
    ) -> Result<Usage, Box<dyn Error>> {
        empty_dir(dir)?;
        let transfer = Transfer {
            s3: self.s3,
            workload,
            bucket,
            dir,
            lists: self.dir,
        };
        let usage = self.run(&transfer, mover, Direction::Download).await?;
        workload
            .check(dir)
            .map_err(|error| format!("{}: {error}", mover.name()))?;
        // The next program shall not wait until this one's bytes are written out.
        if workload.files == 1 {
            std::fs::remove_dir_all(dir)?;
        } else {
            // Not removed yet: for minutes ext4 would step over every freed inode when it makes a file,
            // which cost the programs that came next half a millisecond per file.
            rustix::fs::sync();
        }
        Ok(usage)
    }

    async fn upload(
        &self,
        workload: &Workload,
        mover: Mover,
        source: &Path,
        bucket: &str,
    ) -> Result<Usage, Box<dyn Error>> {
        let store = self.s3.client()?;
        store.create_bucket(bucket).await?;
        // The server makes a bucket's volumes at its first write, which takes it a second or more.
        store.put(&format!("{bucket}/warm-up"), b"warm").await?;
        let transfer = Transfer {
            s3: self.s3,
            workload,
            bucket,
            dir: source,
            lists: self.dir,
        };
        let usage = self.run(&transfer, mover, Direction::Upload).await?;
        let stored = store.list(&format!("{bucket}/{}/", workload.name)).await?;
        if stored.len() != usize::try_from(workload.files)? {
            let (name, count) = (mover.name(), stored.len());
            return Err(format!("{name}: {count} objects were stored").into());
        }
        store.remove_bucket(bucket).await?;
        Ok(usage)
    }

    async fn run(
        &self,
        transfer: &Transfer<'_>,
        mover: Mover,
        direction: Direction,
    ) -> Result<Usage, Box<dyn Error>> {
        let mut command = transfer.command(self.programs, mover, direction).await?;
        Ok(tokio::task::spawn_blocking(move || measure(&mut command)).await??)
    }
}

fn table(
    workload: &Workload,
    direction: Direction,
    movers: &[Mover],
    usages: &[Vec<Usage>],
) -> Table {
    let columns = [
        "program",
        "checksums",
        "wall s",
        "CPU s",
        "CPU s per GiB",
        "peak MiB",
    ];
    let mut table = Table::new(&columns);
    for (mover, usages) in movers.iter().zip(usages) {
        let cpu = Spread::secs(usages.iter().map(|usage| usage.cpu));
        table.row(&[
            mover.name().to_owned(),
            mover.checks(direction).to_owned(),
            Spread::secs(usages.iter().map(|usage| usage.wall)).to_string(),
            cpu.to_string(),
            cpu.per(workload.gib()).to_string(),
            Spread::mib(usages.iter().map(|usage| usage.peak_bytes)).to_string(),
        ]);
    }
    table
}
