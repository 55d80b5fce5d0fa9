//! What every object store must do, checked on the double and on real stores alike.

use bytes::Bytes;
use cts_shared::crc64nvme::Crc64Nvme;
use futures::TryStreamExt;

use super::{
    CompletedPart, GetRequest, ObjectChecksum, ObjectName, ObjectStore, StoreError, StoreErrorKind,
};

/// S3's smallest part that is not the last.
const PART_BYTES: usize = 5 * 1024 * 1024;

/// Runs the whole suite below `prefix` in an existing bucket that the keys may write to. Leaves
/// nothing behind when it succeeds.
///
/// # Errors
/// The first thing that is not as it must be, in words.
pub async fn check(store: &dyn ObjectStore, bucket: &str, prefix: &str) -> Result<(), String> {
    single_put(store, &ObjectName::new(bucket, format!("{prefix}/single put"))).await?;
    empty_object(store, &ObjectName::new(bucket, format!("{prefix}/empty"))).await?;
    missing(store, bucket, &ObjectName::new(bucket, format!("{prefix}/missing"))).await?;
    let object = ObjectName::new(bucket, format!("{prefix}/ünïcode+&?#%"));
    single_put(store, &object).await?;
    multipart(store, &ObjectName::new(bucket, format!("{prefix}/multipart"))).await?;
    aborted(store, &ObjectName::new(bucket, format!("{prefix}/aborted"))).await
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn ensure_kind<T>(
    result: Result<T, StoreError>,
    kind: StoreErrorKind,
    what: &str,
) -> Result<(), String> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(format!("{what}: wanted {kind:?}, got {:?}: {error}", error.kind())),
        Ok(_) => Err(format!("{what}: wanted {kind:?}, got a success")),
    }
}

fn whole(object: &ObjectName) -> GetRequest<'_> {
    GetRequest {
        object,
        range: None,
        if_match: None,
        fresh_connection: false,
    }
}

async fn read(store: &dyn ObjectStore, request: GetRequest<'_>) -> Result<Vec<u8>, String> {
    let response = store.get(request).await.map_err(|error| error.to_string())?;
    let wanted = response.range.end - response.range.start;
    let body = response.body.try_fold(Vec::new(), |mut all, chunk| async move {
        all.extend_from_slice(&chunk);
        Ok(all)
    });
    let body = body.await.map_err(|error| error.to_string())?;
    ensure(body.len() as u64 == wanted, "a body has as many bytes as its range")?;
    Ok(body)
}

async fn single_put(store: &dyn ObjectStore, object: &ObjectName) -> Result<(), String> {
    let text = |error: StoreError| error.to_string();
    let bytes = Bytes::from_static(b"0123456789");
    let checksum = Crc64Nvme::of(&bytes);
    let refused = store.put(object, bytes.clone(), Crc64Nvme::EMPTY).await;
    ensure_kind(refused, StoreErrorKind::ChecksumRefused, "put with a wrong checksum")?;
    ensure_kind(store.head(object).await, StoreErrorKind::NotFound, "head of a refused object")?;

    store.put(object, bytes.clone(), checksum).await.map_err(text)?;
    let info = store.head(object).await.map_err(text)?;
    ensure(info.size == 10, "head gives the size")?;
    ensure(
        info.checksum == ObjectChecksum::FullObject(checksum),
        "head gives the full-object checksum of a single put",
    )?;
    ensure(info.last_modified.is_some(), "head gives the time of the last change")?;
    let etag = info.etag.ok_or("head gives an ETag")?;

    ensure(read(store, whole(object)).await? == bytes, "get gives the bytes")?;
    let fresh = GetRequest { fresh_connection: true, ..whole(object) };
    ensure(read(store, fresh).await? == bytes, "get on a fresh connection gives the bytes")?;
    for (range, expected) in [(0..4, "0123"), (4..10, "456789"), (8..100, "89"), (0..100, "0123456789")] {
        let request = GetRequest {
            range: Some(range.clone()),
            if_match: Some(&etag),
            ..whole(object)
        };
        let response = store.get(request.clone()).await.map_err(text)?;
        ensure(response.range == (range.start..range.end.min(10)), "a range ends at the object's end")?;
        ensure(response.object_size == 10, "a ranged get gives the object's size")?;
        ensure(response.etag.as_deref() == Some(&*etag), "get and head give the same ETag")?;
        ensure(read(store, request).await? == expected.as_bytes(), "a ranged get gives its bytes")?;
    }
    let beyond = GetRequest { range: Some(10..20), ..whole(object) };
    ensure_kind(store.get(beyond).await, StoreErrorKind::InvalidRange, "range beyond the end")?;

    let other = Bytes::from_static(b"replaced");
    store.put(object, other.clone(), Crc64Nvme::of(&other)).await.map_err(text)?;
    let old = GetRequest { if_match: Some(&etag), ..whole(object) };
    ensure_kind(store.get(old).await, StoreErrorKind::Changed, "get of a replaced object")?;

    store.delete(object).await.map_err(text)?;
    ensure_kind(store.head(object).await, StoreErrorKind::NotFound, "head of a deleted object")?;
    store.delete(object).await.map_err(text)
}

async fn empty_object(store: &dyn ObjectStore, object: &ObjectName) -> Result<(), String> {
    let text = |error: StoreError| error.to_string();
    store.put(object, Bytes::new(), Crc64Nvme::EMPTY).await.map_err(text)?;
    let info = store.head(object).await.map_err(text)?;
    ensure(info.size == 0, "an empty object has size 0")?;
    ensure(
        info.checksum == ObjectChecksum::FullObject(Crc64Nvme::EMPTY),
        "an empty object has the checksum of no bytes",
    )?;
    ensure(read(store, whole(object)).await?.is_empty(), "an empty object has no bytes")?;
    store.delete(object).await.map_err(text)
}

async fn missing(
    store: &dyn ObjectStore,
    bucket: &str,
    object: &ObjectName,
) -> Result<(), String> {
    ensure_kind(store.head(object).await, StoreErrorKind::NotFound, "head of no object")?;
    ensure_kind(store.get(whole(object)).await, StoreErrorKind::NotFound, "get of no object")?;
    let nowhere = ObjectName::new(format!("{bucket}-that-does-not-exist"), "key");
    let get = store.get(whole(&nowhere)).await;
    ensure_kind(get, StoreErrorKind::BucketMissing, "get from no bucket")
}

async fn multipart(store: &dyn ObjectStore, object: &ObjectName) -> Result<(), String> {
    let text = |error: StoreError| error.to_string();
    let bodies = [Bytes::from(vec![7; PART_BYTES]), Bytes::from_static(b"the rest")];
    let upload_id = store.create_multipart(object).await.map_err(text)?;
    let open = store.list_multipart(&object.bucket, &object.key).await.map_err(text)?;
    ensure(
        open.iter().any(|open| open.object == *object && open.upload_id == upload_id),
        "an open upload is listed",
    )?;
    let mut parts = Vec::new();
    let mut checksum = Crc64Nvme::EMPTY;
    for (number, body) in (1..).zip(&bodies) {
        let part = Crc64Nvme::of(body);
        let refused = store
            .upload_part(object, &upload_id, number, body.clone(), Crc64Nvme::new(1))
            .await;
        ensure_kind(refused, StoreErrorKind::ChecksumRefused, "a part with a wrong checksum")?;
        let etag = store
            .upload_part(object, &upload_id, number, body.clone(), part)
            .await
            .map_err(text)?;
        checksum = checksum.combine(part, body.len() as u64);
        parts.push(CompletedPart { number, etag, checksum: part });
    }
    store
        .complete_multipart(object, &upload_id, &parts, checksum)
        .await
        .map_err(text)?;
    let info = store.head(object).await.map_err(text)?;
    ensure(
        info.checksum == ObjectChecksum::FullObject(checksum),
        &format!("a multipart object has a full-object checksum, not {}", info.checksum),
    )?;
    ensure(
        Crc64Nvme::of(&read(store, whole(object)).await?) == checksum,
        "a multipart object has its parts' bytes",
    )?;
    let again = store.complete_multipart(object, &upload_id, &parts, checksum).await;
    if let Err(error) = again {
        ensure(
            error.kind() == StoreErrorKind::NotFound,
            &format!("completing twice finds no upload: {error}"),
        )?;
    }
    store.delete(object).await.map_err(text)
}

async fn aborted(store: &dyn ObjectStore, object: &ObjectName) -> Result<(), String> {
    let text = |error: StoreError| error.to_string();
    let upload_id = store.create_multipart(object).await.map_err(text)?;
    store.abort_multipart(object, &upload_id).await.map_err(text)?;
    store.abort_multipart(object, &upload_id).await.map_err(text)?;
    let open = store.list_multipart(&object.bucket, &object.key).await.map_err(text)?;
    ensure(open.is_empty(), "an aborted upload is not listed")?;
    ensure_kind(store.head(object).await, StoreErrorKind::NotFound, "head of an aborted upload")
}
