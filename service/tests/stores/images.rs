//! Registered images.

use cts_service::image_store::{ImageStore, Inserted};
use cts_shared::image_name::ImageName;
use cts_shared::wire::image::{Image, JobImage};

use crate::Store;
use crate::fixtures::at;

pub(crate) async fn check<S: Store, F: Future<Output = S>>(fresh: &mut impl FnMut() -> F) {
    an_image_is_found_by_tag_and_by_digest(&fresh().await).await;
    tags_and_digests_are_taken_once_for_each_name(&fresh().await).await;
    a_deleted_image_is_gone_and_its_place_free(&fresh().await).await;
}

pub(crate) fn digest(number: u8) -> String {
    format!("sha256:{number:064x}")
}

pub(crate) fn image(name: &str, tag: Option<&str>, digest: String) -> Image {
    Image {
        image: JobImage {
            registered_by: "admin".to_owned(),
            registered_on: at(1),
            name: format!("reg.example.org/{name}"),
            digest,
            entrypoint: vec!["run".to_owned()],
            tag: tag.map(ToOwned::to_owned),
            refdata_id: None,
            default_refdata_mount_point: None,
        },
        urls: Some(vec!["https://example.org/".to_owned()]),
        usage_notes: None,
    }
}

fn name(text: &str) -> ImageName {
    format!("reg.example.org/{text}").parse().unwrap()
}

async fn an_image_is_found_by_tag_and_by_digest(store: &impl ImageStore) {
    let one = image("a", Some("1"), digest(1));
    let latest = image("a", Some("latest"), digest(2));
    let untagged = image("a", None, digest(3));
    for image in [&one, &latest, &untagged] {
        let inserted = store.insert_image(image.clone()).await.unwrap();
        assert_eq!(inserted, Inserted::Yes);
    }
    let find = async |text: &str| store.image(name(text)).await.unwrap();
    assert_eq!(find("a:1").await, Some(one.clone()));
    assert_eq!(find("a").await, Some(latest.clone()));
    assert_eq!(
        find(&format!("a@{}", digest(3))).await,
        Some(untagged.clone())
    );
    assert_eq!(
        find(&format!("a:other@{}", digest(1))).await,
        Some(one.clone()),
        "the digest counts"
    );
    assert_eq!(find("a:2").await, None);
    assert_eq!(find("b:1").await, None);
    let mut all = store.images().await.unwrap();
    all.sort_by(|a, b| a.image.digest.cmp(&b.image.digest));
    assert_eq!(all, [one, latest, untagged]);
}

async fn tags_and_digests_are_taken_once_for_each_name(store: &impl ImageStore) {
    let insert = async |name, tag, number| {
        store
            .insert_image(image(name, tag, digest(number)))
            .await
            .unwrap()
    };
    assert_eq!(insert("a", Some("1"), 1).await, Inserted::Yes);
    assert_eq!(insert("a", Some("1"), 2).await, Inserted::TagExists);
    assert_eq!(insert("a", Some("2"), 1).await, Inserted::DigestExists);
    assert_eq!(insert("a", None, 3).await, Inserted::Yes);
    assert_eq!(insert("a", None, 4).await, Inserted::TagExists);
    assert_eq!(insert("b", Some("1"), 1).await, Inserted::Yes);
    assert_eq!(store.images().await.unwrap().len(), 3);
}

async fn a_deleted_image_is_gone_and_its_place_free(store: &impl ImageStore) {
    for (tag, number) in [("1", 1), ("2", 2)] {
        let image = image("a", Some(tag), digest(number));
        store.insert_image(image).await.unwrap();
    }
    assert!(store.delete_image(name("a:1")).await.unwrap());
    assert!(!store.delete_image(name("a:1")).await.unwrap());
    assert!(!store.delete_image(name("b:2")).await.unwrap());
    assert_eq!(store.image(name("a:1")).await.unwrap(), None);
    assert!(store.image(name("a:2")).await.unwrap().is_some());
    let again = image("a", Some("1"), digest(1));
    assert_eq!(store.insert_image(again).await.unwrap(), Inserted::Yes);
    let by_digest = name(&format!("a@{}", digest(2)));
    assert!(store.delete_image(by_digest).await.unwrap());
    assert_eq!(store.image(name("a:2")).await.unwrap(), None);
}
