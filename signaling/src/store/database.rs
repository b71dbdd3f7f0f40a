//! The call log's SQL, once for SQLite and PostgreSQL: both number their parameters `$1` and know `on conflict`.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use common::call_record::{CallRecord, CallType, Participant, QualitySummary};
use common::ids::{CallId, RoomId, UserId};
use sqlx::Connection as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};

use super::{CallPage, CallQuery, StoreError, migrations};

/// Connections to the database: one writes, the others answer `/v1/calls`.
const CONNECTIONS_MAX: u32 = 4;

const INSERT_CALL: &str = "insert into calls (record_id, call_id, call_type, initiator, started_at, answered_at, \
    ended_at, end_reason, ended_by, upgraded_to) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
    on conflict (record_id) do nothing";

const INSERT_PARTICIPANT: &str = "insert into participants (record_id, position, user_id, joined_at, left_at, \
    quality_reports, quality_worst, quality_round_trip_time, quality_packets_lost) \
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9)";

/// The columns of [`CallRow`].
macro_rules! select_calls {
    ($rest:literal) => {
        concat!(
            "select record_id, call_id, call_type, initiator, started_at, answered_at, ended_at, end_reason, \
             ended_by, upgraded_to from calls ",
            $rest
        )
    };
}

/// Newest first, strictly before the cursor `($3, $4)`.
const LIST: &str = select_calls!(
    "where started_at >= $1 and started_at < $2 and (started_at, record_id) < ($3, $4) \
     order by started_at desc, record_id desc limit $5"
);

const LIST_OF_USER: &str = select_calls!(
    "where record_id in (select record_id from participants where user_id = $6 \
     union select record_id from calls where initiator = $6) \
     and started_at >= $1 and started_at < $2 and (started_at, record_id) < ($3, $4) \
     order by started_at desc, record_id desc limit $5"
);

/// A call id may be used again: the newest call that had it.
const GET: &str = select_calls!(
    "where record_id = $1 or call_id = $1 order by (case when record_id = $1 then 0 else 1 end), started_at desc limit 1"
);

const PARTICIPANTS: &str = "select user_id, joined_at, left_at, quality_reports, quality_worst, \
    quality_round_trip_time, quality_packets_lost from participants where record_id = $1 order by position";

type CallRow =
    (String, String, String, String, i64, Option<i64>, i64, String, Option<String>, Option<String>);
type ParticipantRow =
    (String, Option<i64>, Option<i64>, Option<i64>, Option<String>, Option<f64>, Option<i64>);

/// A pool of connections, none of which need exist yet.
pub(super) enum Database {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// The same statements on either pool: their types differ, their text does not.
macro_rules! on {
    ($database:expr, $pool:ident => $body:expr) => {
        match $database {
            Database::Sqlite($pool) => $body,
            Database::Postgres($pool) => $body,
        }
    };
}

/// A connection that is closed unless its transaction was committed.
///
/// Where SQLite finds the disk full it ends a transaction by itself, or leaves it open, and sqlx 0.9 counts otherwise: what is
/// written on the connection later would lie in a savepoint that nobody commits.
struct Writing<DB: sqlx::Database> {
    connection: PoolConnection<DB>,
    /// The one connection of a database in memory is the database, and has no disk.
    replaceable: bool,
    done: bool,
}

impl<DB: sqlx::Database> Drop for Writing<DB> {
    fn drop(&mut self) {
        if self.replaceable && !self.done {
            self.connection.close_on_drop();
        }
    }
}

impl Database {
    /// Reads the URL; connects to nothing.
    pub(super) fn new(url: &str, timeout: Duration) -> Result<Self, StoreError> {
        if url.starts_with("sqlite:") {
            return sqlite(url, timeout).map(Self::Sqlite);
        }
        let options = PgConnectOptions::from_str(url).map_err(|_| StoreError::Url)?;
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(timeout);
        Ok(Self::Postgres(pool.connect_lazy_with(options)))
    }

    /// An embedded database is a file of ours: when it cannot be opened, a setting is wrong.
    pub(super) fn is_embedded(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// Connects, and brings the schema to its newest version.
    pub(super) async fn prepare(&self) -> Result<(), sqlx::Error> {
        let migrator = migrations::migrator().await;
        on!(self, pool => migrator.run(pool).await).map_err(|error| sqlx::Error::Migrate(Box::new(error)))
    }

    /// Writes records in one transaction, and says how many were new.
    pub(super) async fn insert(&self, records: &[CallRecord]) -> Result<u64, sqlx::Error> {
        on!(self, pool => {
            let replaceable = pool.options().get_max_connections() > 1;
            let mut writing = Writing { connection: pool.acquire().await?, replaceable, done: false };
            let mut transaction = writing.connection.begin().await?;
            let mut new = 0;
            for record in records {
                let inserted = sqlx::query(INSERT_CALL)
                    .bind(&record.record_id)
                    .bind(record.call_id.as_str())
                    .bind(call_type_name(record.call_type))
                    .bind(record.initiator.as_str())
                    .bind(micros(record.started_at))
                    .bind(record.answered_at.map(micros))
                    .bind(micros(record.ended_at))
                    .bind(&record.end_reason)
                    .bind(record.ended_by.as_ref().map(UserId::as_str))
                    .bind(record.upgraded_to.as_ref().map(RoomId::as_str))
                    .execute(&mut *transaction)
                    .await?;
                if inserted.rows_affected() == 0 {
                    continue; // written before, its participants with it
                }
                new += 1;
                for (position, participant) in (0i64..).zip(&record.participants) {
                    let quality = participant.quality.as_ref();
                    sqlx::query(INSERT_PARTICIPANT)
                        .bind(&record.record_id)
                        .bind(position)
                        .bind(participant.user.as_str())
                        .bind(participant.joined_at.map(micros))
                        .bind(participant.left_at.map(micros))
                        .bind(quality.map(|quality| i64::from(quality.reports)))
                        .bind(quality.map(|quality| quality.worst.as_str()))
                        .bind(quality.map(|quality| quality.round_trip_time))
                        .bind(quality.map(|quality| i64::try_from(quality.packets_lost).unwrap_or(i64::MAX)))
                        .execute(&mut *transaction)
                        .await?;
                }
            }
            transaction.commit().await?;
            writing.done = true;
            Ok(new)
        })
    }

    /// One page of calls.
    pub(super) async fn list(&self, query: &CallQuery) -> Result<CallPage, StoreError> {
        let (before, before_id) = match &query.cursor {
            Some(cursor) => parse_cursor(cursor).ok_or(StoreError::BadCursor)?,
            None => (i64::MAX, ""),
        };
        let limit = query.limit.clamp(1, CallQuery::LIMIT_MAX);
        let statement = if query.user.is_some() { LIST_OF_USER } else { LIST };
        let mut rows: Vec<CallRow> = on!(self, pool => {
            let statement = sqlx::query_as(statement)
                .bind(query.since.map_or(0, micros))
                .bind(query.until.map_or(i64::MAX, micros))
                .bind(before)
                .bind(before_id)
                .bind(i64::from(limit) + 1); // one more says whether there is a next page
            match &query.user {
                Some(user) => statement.bind(user.as_str()).fetch_all(pool).await?,
                None => statement.fetch_all(pool).await?,
            }
        });
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let cursor = rows.last().filter(|_| more).map(|row| format!("{}.{}", row.4, row.0));
        let mut calls = Vec::with_capacity(rows.len());
        for row in rows {
            calls.push(self.record(row).await?);
        }
        Ok(CallPage { calls, cursor })
    }

    /// One call, by its record id or its call id.
    pub(super) async fn get(&self, id: &str) -> Result<Option<CallRecord>, StoreError> {
        let row: Option<CallRow> =
            on!(self, pool => sqlx::query_as(GET).bind(id).fetch_optional(pool).await?);
        match row {
            Some(row) => self.record(row).await.map(Some),
            None => Ok(None),
        }
    }

    async fn record(&self, row: CallRow) -> Result<CallRecord, StoreError> {
        let rows: Vec<ParticipantRow> =
            on!(self, pool => sqlx::query_as(PARTICIPANTS).bind(&row.0).fetch_all(pool).await?);
        let participants = rows.into_iter().map(participant).collect::<Option<_>>();
        participants.and_then(|participants| call(row, participants)).ok_or(StoreError::Unreadable)
    }

    /// Ends all connections.
    pub(super) async fn close(&self) {
        on!(self, pool => pool.close().await);
    }
}

fn sqlite(url: &str, timeout: Duration) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::from_str(url).map_err(|_| StoreError::Url)?;
    let path = options.get_filename().to_owned();
    let in_memory = url.contains(":memory:") || url.contains("mode=memory");
    if !in_memory && let Some(dir) = path.parent().filter(|dir| *dir != Path::new("")) {
        std::fs::create_dir_all(dir).map_err(StoreError::Directory)?;
    }
    let options = options.create_if_missing(true).foreign_keys(true).busy_timeout(timeout);
    if in_memory {
        // The database lives as long as its connection: one, for ever.
        let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        return Ok(pool.acquire_timeout(timeout).connect_lazy_with(options));
    }
    let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(timeout);
    Ok(pool.connect_lazy_with(options.journal_mode(SqliteJournalMode::Wal)))
}

fn parse_cursor(cursor: &str) -> Option<(i64, &str)> {
    let (before, record_id) = cursor.split_once('.')?;
    Some((before.parse().ok()?, record_id))
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn time(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn call_type_name(call_type: CallType) -> &'static str {
    match call_type {
        CallType::Audio => "audio",
        CallType::Video => "video",
    }
}

/// `None` when another program wrote what no id of ours can be.
fn call(row: CallRow, participants: Vec<Participant>) -> Option<CallRecord> {
    let (record_id, call_id, call_type, initiator, started, answered, ended, end_reason, ended_by, upgraded) =
        row;
    Some(CallRecord {
        record_id,
        call_id: CallId::new(&call_id).ok()?,
        call_type: match call_type.as_str() {
            "audio" => CallType::Audio,
            "video" => CallType::Video,
            _ => return None,
        },
        initiator: UserId::new(&initiator).ok()?,
        started_at: time(started),
        answered_at: answered.map(time),
        ended_at: time(ended),
        end_reason,
        ended_by: ended_by.map(UserId::try_from).transpose().ok()?,
        upgraded_to: upgraded.map(RoomId::try_from).transpose().ok()?,
        participants,
    })
}

fn participant(row: ParticipantRow) -> Option<Participant> {
    let (user, joined, left, reports, worst, round_trip_time, lost) = row;
    let quality = match (reports, worst, round_trip_time, lost) {
        (Some(reports), Some(worst), Some(round_trip_time), Some(lost)) => Some(QualitySummary {
            reports: u32::try_from(reports).ok()?,
            worst,
            round_trip_time,
            packets_lost: u64::try_from(lost).ok()?,
        }),
        _ => None,
    };
    Some(Participant {
        user: UserId::try_from(user).ok()?,
        joined_at: joined.map(time),
        left_at: left.map(time),
        quality,
    })
}
