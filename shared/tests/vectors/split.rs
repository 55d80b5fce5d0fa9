//! `split.jsonl`: how many files go to each container.

use cts_shared::split::file_range;

use crate::loader::{equal, run};

#[test]
fn vectors() {
    run("split.jsonl", |row| {
        let files = usize::try_from(row.input["files"].as_u64().unwrap()).unwrap();
        let containers = u32::try_from(row.input["containers"].as_u64().unwrap()).unwrap();
        let ranges: Vec<_> = (0..containers)
            .map(|n| file_range(files, containers, n).unwrap())
            .collect();
        let counts: Vec<usize> = ranges.iter().map(ExactSizeIterator::len).collect();
        let expected: Vec<usize> = serde_json::from_value(row.expect.clone()).unwrap();
        equal("counts", &counts, &expected)?;
        let files_in_order: Vec<usize> = ranges.into_iter().flatten().collect();
        equal("consecutive", &files_in_order, &(0..files).collect())
    });
}
