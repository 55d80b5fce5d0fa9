//! Sites switched off and on.

use std::collections::BTreeSet;

use cts_service::site_store::SiteStore;
use cts_shared::site::Site;

pub(crate) async fn check(store: &impl SiteStore) {
    let inactive = async || store.inactive_sites().await.unwrap();
    assert_eq!(inactive().await, BTreeSet::new());
    for _ in 0..2 {
        store.set_site_active(Site::Kbase, false).await.unwrap();
        assert_eq!(inactive().await, BTreeSet::from([Site::Kbase]));
    }
    store.set_site_active(Site::Local, true).await.unwrap();
    for _ in 0..2 {
        store.set_site_active(Site::Kbase, true).await.unwrap();
        assert_eq!(inactive().await, BTreeSet::new());
    }
}
