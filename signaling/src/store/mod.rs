//! The call log: what `GET /v1/calls` shows, in SQLite or PostgreSQL.
//!
//! [`CallLog::record`] only puts a record into a queue; `writer` carries it to the `database`, or to the `spill` file while
//! the database is away. No call ever waits for either.

mod database;
mod migrations;
mod spill;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::call_record::CallRecord;
use common::config;
use common::ids::UserId;
use common::metrics::{Counter, Gauge, Registry};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::database::Database;
use self::spill::{Replay, Spill};

/// Records in memory; at some hundred bytes each. What comes when it is full goes to the spill file.
const QUEUE_MAX: usize = 1024;

/// While the disk is full every call that ends loses its record: one warning does for all of a minute.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Free text of a client in a record is cut to this many characters.
const TEXT_CHARS_MAX: usize = 1000;

/// Why the call log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's URL cannot be read. It may hold a password, so it is not shown.
    #[error("store.url: not a database URL")]
    Url,
    /// The database file's directory cannot be made.
    #[error("store.url: cannot make the directory: {0}")]
    Directory(std::io::Error),
    /// The embedded database cannot be opened.
    #[error("store.url: cannot open the database: {0}")]
    Open(sqlx::Error),
    /// Records could not wait anywhere.
    #[error("store.spill_dir: {0}")]
    SpillDir(std::io::Error),
    /// The cursor is none that a page has given.
    #[error("the cursor is not one of ours")]
    BadCursor,
    /// A row that this program did not write.
    #[error("a row of the call log cannot be read")]
    Unreadable,
    /// The database did not answer in time.
    #[error("the database does not answer")]
    Timeout,
    /// The database is away or refuses.
    #[error("the database is away: {0}")]
    Away(#[from] sqlx::Error),
}

/// Which calls to list: those that satisfy everything given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallQuery {
    /// Who placed it, was in it or was rung.
    pub user: Option<UserId>,
    /// Begun at this time or later; since the Unix epoch.
    pub since: Option<Duration>,
    /// Begun before this time; since the Unix epoch.
    pub until: Option<Duration>,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// Calls on a page, at most [`CallQuery::LIMIT_MAX`].
    pub limit: u32,
}

impl CallQuery {
    /// The largest page.
    pub const LIMIT_MAX: u32 = 100;
}

impl Default for CallQuery {
    fn default() -> Self {
        Self { user: None, since: None, until: None, cursor: None, limit: 50 }
    }
}

/// Some calls, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct CallPage {
    /// The calls.
    pub calls: Vec<CallRecord>,
    /// For the next page; `None` on the last one.
    pub cursor: Option<String>,
}

/// The call log. Clones are the same log.
#[derive(Clone)]
pub struct CallLog(Arc<Shared>);

/// How long to wait, and how long to hold on.
#[derive(Debug, Clone, Copy)]
struct Timing {
    /// For one answer of the database.
    database: Duration,
    /// Between the first two attempts during an outage.
    retry_min: Duration,
    /// Between later ones.
    retry_max: Duration,
}

const TIMING: Timing = Timing {
    database: Duration::from_secs(5),
    retry_min: Duration::from_secs(1),
    retry_max: Duration::from_secs(30),
};

struct Metrics {
    queued: Gauge,
    spilled: Counter,
    written: Counter,
    lost: Counter,
}

/// What the handles and the writer share.
struct Shared {
    database: Database,
    waiting: Mutex<Waiting>,
    wake: Notify,
    writer: Mutex<Option<JoinHandle<()>>>,
    metrics: Metrics,
    timing: Timing,
}

/// Records that are not in the database yet.
struct Waiting {
    queue: VecDeque<CallRecord>,
    spill: Spill,
    closed: bool,
    /// When the operator was last told of a record that is lost.
    warned_at: Option<Instant>,
}

impl CallLog {
    /// Opens the log and starts its writer on the current tokio runtime. An SQLite file that cannot be opened is an error;
    /// a PostgreSQL server that is away is not: records wait for it.
    pub async fn open(config: &config::Store, registry: &Registry) -> Result<Self, StoreError> {
        Self::open_with(config, registry, TIMING).await
    }

    async fn open_with(
        config: &config::Store,
        registry: &Registry,
        timing: Timing,
    ) -> Result<Self, StoreError> {
        let url = std::str::from_utf8(&config.url.0).map_err(|_| StoreError::Url)?;
        let database = Database::new(url, timing.database)?;
        let spill = Spill::open(&config.spill_dir).map_err(StoreError::SpillDir)?;
        let prepared = database.is_embedded();
        if prepared {
            database.prepare().await.map_err(StoreError::Open)?;
        }
        let shared = Arc::new(Shared {
            database,
            waiting: Mutex::new(Waiting { queue: VecDeque::new(), spill, closed: false, warned_at: None }),
            wake: Notify::new(),
            writer: Mutex::new(None),
            metrics: Metrics {
                queued: registry.gauge("call_log_queued", "Call records in memory"),
                spilled: registry.counter("call_log_spilled", "Call records that had to wait on disk"),
                written: registry.counter("call_log_written", "Call records written to the database"),
                lost: registry.counter("call_log_lost", "Call records that fitted nowhere"),
            },
            timing,
        });
        let writer = tokio::spawn(writer::run(shared.clone(), prepared));
        *shared.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        Ok(Self(shared))
    }

    /// Takes a record for writing, and returns at once.
    pub fn record(&self, record: CallRecord) {
        let record = cleaned(record);
        let mut waiting = self.0.waiting();
        if waiting.closed || waiting.queue.len() >= QUEUE_MAX {
            self.0.spill(&mut waiting, &record);
        } else {
            waiting.queue.push_back(record);
            self.0.metrics.queued.set(waiting.queue.len() as i64);
        }
        drop(waiting);
        self.0.wake.notify_one();
    }

    /// One page of calls, newest first.
    pub async fn list(&self, query: &CallQuery) -> Result<CallPage, StoreError> {
        let page = timeout(self.0.timing.database, self.0.database.list(query));
        page.await.map_err(|_| StoreError::Timeout)?
    }

    /// One call by its record id, or the newest call with this call id.
    pub async fn get(&self, id: &str) -> Result<Option<CallRecord>, StoreError> {
        let call = timeout(self.0.timing.database, self.0.database.get(id));
        call.await.map_err(|_| StoreError::Timeout)?
    }

    /// Writes what waits, to the database or else to disk, and ends the writer. Later records wait on disk.
    pub async fn close(&self) {
        self.0.waiting().closed = true;
        self.0.wake.notify_one();
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && let Err(error) = writer.await
        {
            tracing::error!(%error, "the call log's writer ended early");
        }
        self.0.spill_queue();
        self.0.database.close().await;
    }
}

impl Shared {
    /// The lock is held for moments only, never across an await.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        let waiting = self.waiting();
        waiting.queue.is_empty() && !waiting.spill.is_waiting() && !waiting.closed
    }

    fn take_batch(&self, max: usize) -> Vec<CallRecord> {
        let queue = &mut self.waiting().queue;
        let count = queue.len().min(max);
        let batch = queue.drain(..count).collect();
        self.metrics.queued.set(queue.len() as i64);
        batch
    }

    fn put_back(&self, batch: Vec<CallRecord>) {
        let queue = &mut self.waiting().queue;
        batch.into_iter().rev().for_each(|record| queue.push_front(record));
    }

    fn replay(&self) -> std::io::Result<Option<Replay>> {
        self.waiting().spill.replay()
    }

    /// Moves what is in memory to disk.
    fn spill_queue(&self) {
        let waiting = &mut *self.waiting();
        for record in std::mem::take(&mut waiting.queue) {
            self.spill(waiting, &record);
        }
        self.metrics.queued.set(0);
    }

    fn spill(&self, waiting: &mut Waiting, record: &CallRecord) {
        let Err(error) = waiting.spill.append(record) else {
            self.metrics.spilled.inc();
            return;
        };
        self.metrics.lost.inc();
        let now = Instant::now();
        if waiting.warned_at.is_none_or(|at| now.duration_since(at) >= WARN_INTERVAL) {
            waiting.warned_at = Some(now);
            tracing::warn!(%error, "call records are lost: store.spill_dir takes no more; call_log_lost counts them");
        }
    }
}

/// What every database takes: no NUL characters (PostgreSQL), no endless texts, no NaN (JSON).
fn cleaned(mut record: CallRecord) -> CallRecord {
    let clean = |text: &mut String| {
        if text.contains('\0') || text.len() > TEXT_CHARS_MAX {
            *text = text.chars().filter(|&c| c != '\0').take(TEXT_CHARS_MAX).collect();
        }
    };
    clean(&mut record.record_id);
    clean(&mut record.end_reason);
    for quality in record.participants.iter_mut().filter_map(|part| part.quality.as_mut()) {
        clean(&mut quality.worst);
        if !quality.round_trip_time.is_finite() {
            quality.round_trip_time = 0.0;
        }
    }
    record
}
