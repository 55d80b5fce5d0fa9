//! The demo's input: the genome that is in the tree, and the reads where they can be had.

use std::path::PathBuf;

use cts_tests::binaries::workspace;
use cts_tests::testbed::{Layout, Packages};

use crate::screen::Screen;

/// Where Debian's package has the reads.
const READS_DIR: &str = "usr/share/doc/bowtie2/examples/reads";
const READS: [&str; 2] = ["reads_1.fq.gz", "reads_2.fq.gz"];

/// The input files, and what SeqKit must say of them.
pub(crate) async fn files(
    screen: &Screen,
    layout: &Layout,
) -> std::io::Result<(Vec<PathBuf>, String)> {
    let data = workspace().join("tests/data");
    let mut files = vec![data.join("lambda_virus.fa")];
    let mut expected = std::fs::read_to_string(data.join("seqkit_stats.tsv"))?;
    let packages = Packages::new(layout, "demo data");
    match packages
        .debian_tree("bowtie2-examples", "sequencing reads of the lambda phage")
        .await
    {
        Ok(tree) => files.extend(READS.map(|name| tree.join(READS_DIR).join(name))),
        Err(error) => {
            screen.line(&format!("without the reads, on the genome alone: {error}"));
            let genome_lines: Vec<&str> = expected.split_inclusive('\n').take(2).collect();
            expected = genome_lines.concat();
        }
    }
    Ok((files, expected))
}
