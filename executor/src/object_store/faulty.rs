//! A store that breaks chosen calls of the store it wraps: fails them, loses their answers, cuts,
//! corrupts or stalls their bodies.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cts_shared::crc64nvme::Crc64Nvme;
use futures::{StreamExt, future, stream};
use tokio::sync::watch;

use super::{
    Body, CompletedPart, GetRequest, GetResponse, ObjectChecksum, ObjectInfo, ObjectName,
    ObjectStore, OpenUpload, StoreError, StoreErrorKind, StoreFuture,
};

/// The methods of [`ObjectStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named like the methods")]
pub enum Operation {
    Head,
    Get,
    Put,
    CreateMultipart,
    UploadPart,
    CompleteMultipart,
    AbortMultipart,
    ListMultipart,
    Delete,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It fails and the store never sees it.
    Fail(StoreErrorKind),
    /// The store does it, then the answer is lost.
    LoseAnswer(StoreErrorKind),
    /// It never answers.
    Stall,
    /// The store does it when [`FaultyStore::release`] is called, if the caller still waits.
    Hold,
    /// GET: the connection breaks after this many bytes of the body.
    BreakBody(u64),
    /// GET: the body ends, as if complete, after this many bytes.
    EndBody(u64),
    /// GET: nothing comes after this many bytes of the body.
    StallBody(u64),
    /// GET: the lowest bit of this byte of the body is flipped.
    FlipBit(u64),
    /// GET: the answer carries another `ETag`, as if the object had been replaced.
    OtherEtag,
    /// PUT, complete, HEAD: the answer carries this checksum.
    Checksum(ObjectChecksum),
}

/// The wrapper. Calls are counted from 0, over all operations and for each alone.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    plan: Mutex<Plan>,
    released: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Plan {
    calls: Vec<Operation>,
    on_call: BTreeMap<usize, Fault>,
    on_operation: BTreeMap<(Operation, usize), Fault>,
    always: BTreeMap<Operation, Fault>,
}

impl FaultyStore {
    /// A store that breaks nothing yet.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            plan: Mutex::default(),
            released: watch::Sender::new(false),
        }
    }

    /// Breaks call `n`, whatever it is.
    #[must_use]
    pub fn on_call(self, n: usize, fault: Fault) -> Self {
        self.plan().on_call.insert(n, fault);
        self
    }

    /// Breaks call `n` of one operation.
    #[must_use]
    pub fn on(self, operation: Operation, n: usize, fault: Fault) -> Self {
        self.plan().on_operation.insert((operation, n), fault);
        self
    }

    /// Breaks every call of one operation.
    #[must_use]
    pub fn always(self, operation: Operation, fault: Fault) -> Self {
        self.plan().always.insert(operation, fault);
        self
    }

    /// Lets the calls go on that are held.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// How many calls are held and still waited for.
    #[must_use]
    pub fn held(&self) -> usize {
        self.released.receiver_count()
    }

    /// The calls made so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Operation> {
        self.plan().calls.clone()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and looks up what happens to it.
    fn next_fault(&self, operation: Operation) -> Option<Fault> {
        let mut plan = self.plan();
        let n = plan.calls.len();
        let n_of_operation = plan.calls.iter().filter(|call| **call == operation).count();
        plan.calls.push(operation);
        let fault = plan
            .on_call
            .get(&n)
            .or_else(|| plan.on_operation.get(&(operation, n_of_operation)))
            .or_else(|| plan.always.get(&operation));
        fault.cloned()
    }

    /// Runs a call with what is planned for it; hands back the faults that concern the answer.
    async fn run<T>(
        &self,
        operation: Operation,
        target: &impl ToString,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<(T, Option<Fault>), StoreError> {
        let injected = |kind| StoreError::new(kind, "use", target, "injected fault");
        match self.next_fault(operation) {
            Some(Fault::Fail(kind)) => Err(injected(kind)),
            Some(Fault::LoseAnswer(kind)) => {
                call.await?;
                Err(injected(kind))
            }
            Some(Fault::Stall) => future::pending().await,
            Some(Fault::Hold) => {
                let mut released = self.released.subscribe();
                // Whose sender is this store's own, and not gone before.
                drop(released.wait_for(|now| *now).await);
                Ok((call.await?, None))
            }
            fault => Ok((call.await?, fault)),
        }
    }
}

fn checksum_of(answer: (ObjectChecksum, Option<Fault>)) -> ObjectChecksum {
    match answer {
        (_, Some(Fault::Checksum(checksum))) => checksum,
        (checksum, _) => checksum,
    }
}

/// The first `len` bytes of a body.
fn first_bytes(body: Body, len: u64) -> Body {
    let mut left = usize::try_from(len).unwrap_or(usize::MAX);
    Box::pin(
        body.map(move |chunk| {
            let mut chunk = chunk?;
            chunk.truncate(left);
            left -= chunk.len();
            Ok(chunk)
        })
        .take_while(|chunk| future::ready(!matches!(chunk, Ok(bytes) if bytes.is_empty()))),
    )
}

fn break_body(body: Body, fault: Fault, object: &ObjectName) -> Body {
    match fault {
        Fault::BreakBody(len) => {
            let kind = StoreErrorKind::Unavailable;
            let error = StoreError::new(kind, "get", object, "injected: connection reset");
            Box::pin(first_bytes(body, len).chain(stream::iter([Err(error)])))
        }
        Fault::EndBody(len) => first_bytes(body, len),
        Fault::StallBody(len) => Box::pin(first_bytes(body, len).chain(stream::pending())),
        Fault::FlipBit(at) => {
            let mut seen = 0_u64;
            Box::pin(body.map(move |chunk| {
                let chunk = chunk?;
                let in_chunk = usize::try_from(at - seen.min(at)).unwrap_or(usize::MAX);
                let is_here = at >= seen;
                seen += chunk.len() as u64;
                if !is_here {
                    return Ok(chunk);
                }
                let mut bytes = chunk.to_vec();
                if let Some(byte) = bytes.get_mut(in_chunk) {
                    *byte ^= 1;
                }
                Ok(Bytes::from(bytes))
            }))
        }
        _ => body,
    }
}

impl ObjectStore for FaultyStore {
    fn head<'a>(&'a self, object: &'a ObjectName) -> StoreFuture<'a, ObjectInfo> {
        Box::pin(async move {
            let call = self.inner.head(object);
            let (mut info, fault) = self.run(Operation::Head, object, call).await?;
            if let Some(Fault::Checksum(checksum)) = fault {
                info.checksum = checksum;
            }
            Ok(info)
        })
    }

    fn get<'a>(&'a self, request: GetRequest<'a>) -> StoreFuture<'a, GetResponse> {
        Box::pin(async move {
            let object = request.object;
            let call = self.inner.get(request);
            let (mut response, fault) = self.run(Operation::Get, object, call).await?;
            match fault {
                Some(Fault::OtherEtag) => response.etag = Some("\"other\"".to_owned()),
                Some(fault) => response.body = break_body(response.body, fault, object),
                None => {}
            }
            Ok(response)
        })
    }

    fn put<'a>(
        &'a self,
        object: &'a ObjectName,
        body: Bytes,
        checksum: Crc64Nvme,
    ) -> StoreFuture<'a, ObjectChecksum> {
        Box::pin(async move {
            // Not before the fault is known: a call of the double acts at once.
            let call = async move { self.inner.put(object, body, checksum).await };
            self.run(Operation::Put, object, call)
                .await
                .map(checksum_of)
        })
    }

    fn create_multipart<'a>(&'a self, object: &'a ObjectName) -> StoreFuture<'a, String> {
        Box::pin(async move {
            let call = async move { self.inner.create_multipart(object).await };
            let answer = self.run(Operation::CreateMultipart, object, call).await?;
            Ok(answer.0)
        })
    }

    fn upload_part<'a>(
        &'a self,
        object: &'a ObjectName,
        upload_id: &'a str,
        number: u16,
        body: Bytes,
        checksum: Crc64Nvme,
    ) -> StoreFuture<'a, String> {
        Box::pin(async move {
            let call = async move {
                self.inner
                    .upload_part(object, upload_id, number, body, checksum)
                    .await
            };
            Ok(self.run(Operation::UploadPart, object, call).await?.0)
        })
    }

    fn complete_multipart<'a>(
        &'a self,
        object: &'a ObjectName,
        upload_id: &'a str,
        parts: &'a [CompletedPart],
        checksum: Crc64Nvme,
    ) -> StoreFuture<'a, ObjectChecksum> {
        Box::pin(async move {
            let call = async move {
                self.inner
                    .complete_multipart(object, upload_id, parts, checksum)
                    .await
            };
            self.run(Operation::CompleteMultipart, object, call)
                .await
                .map(checksum_of)
        })
    }

    fn abort_multipart<'a>(
        &'a self,
        object: &'a ObjectName,
        upload_id: &'a str,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let call = async move { self.inner.abort_multipart(object, upload_id).await };
            let ((), _) = self.run(Operation::AbortMultipart, object, call).await?;
            Ok(())
        })
    }

    fn list_multipart<'a>(
        &'a self,
        bucket: &'a str,
        prefix: &'a str,
    ) -> StoreFuture<'a, Vec<OpenUpload>> {
        Box::pin(async move {
            let call = self.inner.list_multipart(bucket, prefix);
            Ok(self.run(Operation::ListMultipart, &bucket, call).await?.0)
        })
    }

    fn delete<'a>(&'a self, object: &'a ObjectName) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let call = async move { self.inner.delete(object).await };
            let ((), _) = self.run(Operation::Delete, object, call).await?;
            Ok(())
        })
    }
}
