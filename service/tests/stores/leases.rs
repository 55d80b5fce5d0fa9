//! Leases taken, renewed, lapsed and given back.

use cts_service::lease_store::{Lease, LeaseRequest, LeaseStore};

use crate::fixtures::at;

pub(crate) async fn check(store: &(impl LeaseStore + Clone + 'static)) {
    let take = async |holder: &str, second: i64| {
        let request = LeaseRequest {
            name: "sweep".to_owned(),
            holder: holder.to_owned(),
            now: at(second),
            until: at(second + 10),
        };
        store.take_lease(request).await.unwrap()
    };
    assert_eq!(take("a", 0).await, Lease::Fresh);
    assert_eq!(take("b", 9).await, Lease::Held);
    assert_eq!(take("a", 9).await, Lease::Renewed);
    assert_eq!(take("b", 18).await, Lease::Held);
    assert_eq!(take("b", 19).await, Lease::TakenOver);
    assert_eq!(take("a", 20).await, Lease::Held);

    let give_back = async |holder: &str| {
        store
            .give_back_lease("sweep".to_owned(), holder.to_owned())
            .await
            .unwrap();
    };
    give_back("a").await;
    assert_eq!(take("a", 21).await, Lease::Held, "it was not a's to give");
    give_back("b").await;
    assert_eq!(take("a", 21).await, Lease::Fresh);
    assert_eq!(
        take("a", 100).await,
        Lease::TakenOver,
        "a's own, long lapsed"
    );

    // Many at once: one gets it.
    let contenders = (0..16).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .take_lease(LeaseRequest {
                    name: "other".to_owned(),
                    holder: number.to_string(),
                    now: at(0),
                    until: at(10),
                })
                .await
                .unwrap()
        })
    });
    let mut taken = Vec::new();
    for contender in contenders.collect::<Vec<_>>() {
        taken.push(contender.await.unwrap());
    }
    assert_eq!(
        taken.iter().filter(|lease| **lease == Lease::Fresh).count(),
        1
    );
    assert_eq!(
        taken.iter().filter(|lease| **lease == Lease::Held).count(),
        15
    );
}
