//! Any sizes, any chunks, any faults along the way: the bytes and their checksum are right.

use std::time::Duration;

use cts_executor::object_store::ObjectName;
use cts_executor::object_store::faulty::Fault;
use cts_executor::object_store::memory::MemoryStore;
use cts_shared::crc64nvme::Crc64Nvme;
use proptest::prelude::*;

use crate::setup::Setup;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), work)
            .await
            .unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn downloads_are_exact(
        body in prop::collection::vec(any::<u8>(), 0..2000),
        chunk in 1_usize..300,
        first_part in 1_u64..600,
        part in 1_u64..600,
        cut_call in 0_usize..10,
        cut_at in 0_u64..600,
    ) {
        let memory = MemoryStore::with_buckets(&["b"]).with_chunk_bytes(chunk);
        let mut setup = Setup::over(memory, |store| {
            store.on_call(cut_call, Fault::BreakBody(cut_at))
        });
        setup.options.first_part_bytes = first_part;
        setup.options.part_bytes = part;
        let item = setup.object("a/b", &body);
        block_on(setup.download(vec![item])).unwrap();
        prop_assert_eq!(setup.files().remove("a/b"), Some(body));
    }

    #[test]
    fn uploads_are_exact(
        body in prop::collection::vec(any::<u8>(), 0..2000),
        part in 1_u64..600,
        concurrency in 1_usize..6,
    ) {
        let mut setup = Setup::new();
        setup.options.upload_part_bytes = part;
        setup.options.upload_concurrency = concurrency;
        let file = setup.file("k", &body);
        let sent = block_on(setup.upload(vec![file])).unwrap();
        let checksum = Crc64Nvme::of(&body);
        prop_assert_eq!(sent.first().map(|sent| sent.checksum), Some(checksum));
        prop_assert_eq!(setup.memory.object(&ObjectName::new("b", "k")), Some(body.into()));
    }
}
