//! A simulated bucket with a clock of its own, and the lines by which processes reach it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result,
};
use tokio::time::Instant;

use crate::chance;
use crate::time::Clock;

/// What all processes share: objects, and when they were written by the store's clock.
#[derive(Debug)]
pub(crate) struct Shelf {
    objects: InMemory,
    written: Mutex<BTreeMap<Path, DateTime<Utc>>>,
    clock: Clock,
    ignores_conditions: AtomicBool,
}

impl Shelf {
    /// An empty one whose time is that of `clock`.
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            objects: InMemory::new(),
            written: Mutex::default(),
            clock,
            ignores_conditions: AtomicBool::new(false),
        })
    }

    /// From now on a second put of one name succeeds.
    pub(crate) fn ignore_conditions(&self) {
        self.ignores_conditions.store(true, Ordering::SeqCst);
    }

    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.clock.now().0).unwrap()
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let written = self.written.lock().unwrap();
        meta.last_modified = written.get(&meta.location).copied().unwrap_or_default();
        meta
    }

    async fn put(&self, to: &Path, payload: PutPayload, mut how: PutOptions) -> Result<PutResult> {
        if self.ignores_conditions.load(Ordering::SeqCst) {
            how.mode = PutMode::Overwrite;
        }
        let put = self.objects.put_opts(to, payload, how).await?;
        self.written.lock().unwrap().insert(to.clone(), self.now());
        Ok(put)
    }

    async fn listed(&self, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let all: Vec<ObjectMeta> = self.objects.list(prefix).try_collect().await?;
        Ok(all.into_iter().map(|meta| self.dated(meta)).collect())
    }
}

/// How often, in a thousand requests, something goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// The request is lost.
    pub before: u64,
    /// It is done, and its answer is lost.
    pub after: u64,
    /// The connection breaks, and the request is done later.
    pub late: u64,
    /// A put is answered with 409, and nothing is done.
    pub conflict: u64,
    /// 429, 500 or 503, and nothing is done.
    pub refused: u64,
    /// The process is stopped before or after the request.
    pub pause: u64,
    /// How long at most, in seconds.
    pub pause_max: u64,
    /// The longest way of a request, in milliseconds.
    pub delay_max: u64,
}

/// The way of one process to the shelf.
pub(crate) struct Line {
    shelf: Arc<Shelf>,
    faults: Mutex<Faults>,
    dead: AtomicBool,
    /// Milliseconds since `began` until which the process is stopped.
    stopped_until: AtomicU64,
    began: Instant,
}

impl Line {
    pub(crate) fn new(shelf: &Arc<Shelf>, faults: Faults) -> Arc<Self> {
        Arc::new(Self {
            shelf: Arc::clone(shelf),
            faults: Mutex::new(faults),
            dead: AtomicBool::new(false),
            stopped_until: AtomicU64::new(0),
            began: Instant::now(),
        })
    }

    /// One on which nothing goes wrong.
    pub(crate) fn clear(shelf: &Arc<Shelf>) -> Arc<Self> {
        Self::new(shelf, Faults::default())
    }

    /// No request of the process is answered any more; those under way may still be done.
    pub(crate) fn cut(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// From now on nothing goes wrong.
    pub(crate) fn mend(&self) {
        *self.faults.lock().unwrap() = Faults::default();
        self.stopped_until.store(0, Ordering::SeqCst);
    }

    /// Stops the process for some time, as Ctrl-Z does: every request, and every answer, waits.
    pub(crate) fn stop(&self, time: Duration) {
        let until = (self.began.elapsed() + time).as_millis() as u64;
        self.stopped_until.fetch_max(until, Ordering::SeqCst);
    }

    fn happens(&self, of_thousand: impl Fn(&Faults) -> u64) -> bool {
        let of_thousand = of_thousand(&self.faults.lock().unwrap());
        of_thousand > 0 && chance::within(0..=999) < of_thousand
    }

    /// The way of a request or of its answer.
    async fn travel(&self) {
        let faults = *self.faults.lock().unwrap();
        if faults.delay_max > 0 {
            let millis = chance::within(0..=faults.delay_max);
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        if self.happens(|faults| faults.pause) {
            // Short stops and very long ones are both to be met.
            let most = chance::within(0..=faults.pause_max.max(1).ilog2().into());
            self.stop(Duration::from_secs(chance::within(0..=1 << most)));
        }
        loop {
            if self.dead.load(Ordering::SeqCst) {
                futures::future::pending::<()>().await;
            }
            let until = Duration::from_millis(self.stopped_until.load(Ordering::SeqCst));
            match until.checked_sub(self.began.elapsed()) {
                Some(left) if !left.is_zero() => {
                    tokio::time::sleep(left.min(Duration::from_secs(60))).await;
                }
                Some(_) | None => return,
            }
        }
    }

    async fn request<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.travel().await;
        if self.happens(|faults| faults.before) || self.happens(|faults| faults.refused) {
            return Err(broken("the request was lost"));
        }
        let done = work.await;
        self.travel().await;
        if self.happens(|faults| faults.after) {
            return Err(broken("the answer was lost"));
        }
        done
    }
}

fn broken(what: &str) -> Error {
    Error::Generic {
        store: "simulated",
        source: what.into(),
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Line {
    async fn put_opts(&self, to: &Path, payload: PutPayload, how: PutOptions) -> Result<PutResult> {
        let create = matches!(how.mode, PutMode::Create);
        if self.happens(|faults| faults.late) {
            let (shelf, to) = (Arc::clone(&self.shelf), to.clone());
            let wait = Duration::from_millis(chance::within(100..=20_000));
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                drop(shelf.put(&to, payload, how).await);
            });
            self.travel().await;
            return Err(broken("the connection was cut"));
        }
        if create && self.happens(|faults| faults.conflict) {
            self.travel().await;
            return Err(Error::AlreadyExists {
                path: to.to_string(),
                source: "409".into(),
            });
        }
        self.request(self.shelf.put(to, payload, how)).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.shelf.objects.put_multipart_opts(to, how).await
    }

    async fn get_opts(&self, from: &Path, how: GetOptions) -> Result<GetResult> {
        let mut got = self.request(self.shelf.objects.get_opts(from, how)).await?;
        got.meta = self.shelf.dated(got.meta);
        Ok(got)
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.request(self.shelf.objects.get_ranges(from, ranges))
            .await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        // Whoever deletes here does it one by one; a stop lies between any two.
        let (shelf, stopped) = (
            Arc::clone(&self.shelf),
            self.faults.lock().unwrap().pause > 0,
        );
        let wait = match stopped {
            true => chance::within(0..=5),
            false => 0,
        };
        locations
            .then(move |location| {
                let shelf = Arc::clone(&shelf);
                async move {
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                    let location = location?;
                    let one = stream::iter([Ok(location.clone())]).boxed();
                    let deleted = shelf.objects.delete_stream(one);
                    deleted.try_collect::<Vec<_>>().await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (shelf, prefix) = (Arc::clone(&self.shelf), prefix.cloned());
        let wait = match self.faults.lock().unwrap().delay_max {
            0 => 0,
            most => chance::within(0..=most),
        };
        let lost = self.happens(|faults| faults.before);
        async move {
            if lost {
                return stream::iter(vec![Err(broken("the listing broke off"))]).boxed();
            }
            match slow_listing(&shelf, prefix.as_ref(), Duration::from_millis(wait)).await {
                Ok(all) => stream::iter(all.into_iter().map(Ok)).boxed(),
                Err(error) => stream::iter(vec![Err(error)]).boxed(),
            }
        }
        .flatten_stream()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.request(self.shelf.objects.list_with_delimiter(prefix))
            .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.request(self.shelf.objects.copy_opts(from, to, how))
            .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<()> {
        self.request(self.shelf.objects.rename_opts(from, to, how))
            .await
    }
}

/// What comes and goes while it lasts is in it or not, as it happens.
async fn slow_listing(
    shelf: &Shelf,
    prefix: Option<&Path>,
    lasts: Duration,
) -> Result<Vec<ObjectMeta>> {
    let mut before = shelf.listed(prefix).await?;
    if lasts.is_zero() {
        return Ok(before);
    }
    tokio::time::sleep(lasts).await;
    let after = shelf.listed(prefix).await?;
    let paths = |all: &[ObjectMeta]| -> BTreeSet<Path> {
        all.iter().map(|meta| meta.location.clone()).collect()
    };
    let (old, new) = (paths(&before), paths(&after));
    before.retain(|meta| new.contains(&meta.location) || chance::within(0..=1) == 0);
    let came = after
        .into_iter()
        .filter(|meta| !old.contains(&meta.location));
    before.extend(came.filter(|_| chance::within(0..=1) == 0));
    Ok(before)
}
