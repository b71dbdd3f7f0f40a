//! Against SQLite always; against PostgreSQL when `CAUSEWAY_TEST_POSTGRES` holds a URL.

use std::path::PathBuf;

use common::call_record::{CallType, Participant, QualitySummary};
use common::config::Secret;
use common::ids::{CallId, RoomId};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const QUICK: Timing = Timing {
    database: Duration::from_secs(2),
    retry_min: Duration::from_millis(20),
    retry_max: Duration::from_millis(40),
};

/// A directory of this test's own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("causeway-store-{}-{test}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn sqlite(&self) -> config::Store {
        let url = format!("sqlite://{}/calls.db", self.0.display());
        config::Store { url: Secret(url.into_bytes()), spill_dir: self.0.clone() }
    }

    fn spilled(&self) -> String {
        std::fs::read_to_string(self.0.join("calls.jsonl")).unwrap_or_default()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// A call of alice and `callee`, begun `second` seconds after the epoch's billionth.
fn record(id: &str, second: u64, callee: &str) -> CallRecord {
    let start = Duration::from_micros((1_000_000_000 + second) * 1_000_000 + 250_000);
    let quality =
        QualitySummary { reports: 3, worst: "fair".into(), round_trip_time: 0.125, packets_lost: 7 };
    CallRecord {
        record_id: id.into(),
        call_id: CallId::new(&format!("call-{id}")).unwrap(),
        call_type: CallType::Video,
        initiator: user("alice"),
        started_at: start,
        answered_at: Some(start + Duration::from_secs(2)),
        ended_at: start + Duration::from_secs(60),
        end_reason: "hangup".into(),
        ended_by: Some(user(callee)),
        upgraded_to: Some(RoomId::new("room").unwrap()),
        participants: vec![
            Participant {
                user: user("alice"),
                joined_at: Some(start),
                left_at: None,
                quality: Some(quality),
            },
            Participant { user: user(callee), joined_at: None, left_at: None, quality: None },
        ],
    }
}

async fn open(config: &config::Store) -> (CallLog, Registry) {
    let registry = Registry::new();
    (CallLog::open_with(config, &registry, QUICK).await.unwrap(), registry)
}

/// Waits until the metric has this value.
async fn until(registry: &Registry, line: &str) {
    for _ in 0..3000 {
        if registry.encode().lines().any(|found| found == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came to {line:?}:\n{}", registry.encode());
}

async fn ids(log: &CallLog, query: &CallQuery) -> Vec<String> {
    log.list(query).await.unwrap().calls.into_iter().map(|call| call.record_id).collect()
}

/// Everything the log promises while its database is well.
async fn check_log(config: &config::Store) {
    let (log, registry) = open(config).await;
    let bob = record("a", 1, "bob");
    log.record(bob.clone());
    for (id, second) in [("b", 2), ("c", 3), ("d", 3), ("e", 4)] {
        log.record(record(id, second, "carol"));
    }
    log.record(record("b", 9, "mallory"));
    until(&registry, "causeway_call_log_written_total 5").await;

    assert_eq!(log.get("a").await.unwrap(), Some(bob.clone()));
    assert_eq!(log.get("call-a").await.unwrap(), Some(bob));
    assert_eq!(log.get("nobody's").await.unwrap(), None);
    assert_eq!(ids(&log, &CallQuery::default()).await, ["e", "d", "c", "b", "a"]);
    let of = |name| CallQuery { user: Some(user(name)), ..CallQuery::default() };
    assert_eq!(ids(&log, &of("bob")).await, ["a"]);
    assert_eq!(ids(&log, &of("alice")).await.len(), 5);
    assert_eq!(ids(&log, &of("mallory")).await, [""; 0]);
    let since = Some(Duration::from_secs(1_000_000_002));
    let until = Some(Duration::from_secs(1_000_000_004));
    assert_eq!(ids(&log, &CallQuery { since, until, ..CallQuery::default() }).await, ["d", "c", "b"]);

    let mut query = CallQuery { limit: 2, user: Some(user("alice")), ..CallQuery::default() };
    let mut pages = Vec::new();
    loop {
        let page = log.list(&query).await.unwrap();
        pages.push(page.calls.into_iter().map(|call| call.record_id).collect::<Vec<_>>());
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, [vec!["e", "d"], vec!["c", "b"], vec!["a"]]);
    let bad = CallQuery { cursor: Some("x".into()), ..CallQuery::default() };
    assert!(matches!(log.list(&bad).await, Err(StoreError::BadCursor)));

    log.record(CallRecord { end_reason: format!("a\0{}", "b".repeat(5000)), ..record("f", 5, "dan") });
    log.close().await;
    let (log, _) = open(config).await;
    assert_eq!(log.get("f").await.unwrap().unwrap().end_reason.len(), TEXT_CHARS_MAX);
    log.close().await;
}

#[tokio::test]
async fn a_file_keeps_the_calls() {
    let dir = Dir::new("file");
    check_log(&dir.sqlite()).await;
    assert_eq!(dir.spilled(), "");
}

#[tokio::test]
async fn memory_will_do() {
    let dir = Dir::new("memory");
    let config = config::Store { url: Secret(b"sqlite::memory:".to_vec()), spill_dir: dir.0.clone() };
    let (log, registry) = open(&config).await;
    log.record(record("a", 1, "bob"));
    until(&registry, "causeway_call_log_written_total 1").await;
    assert_eq!(ids(&log, &CallQuery::default()).await, ["a"]);
    log.close().await;
}

#[tokio::test]
async fn an_outage_loses_and_doubles_nothing() {
    let dir = Dir::new("outage");
    let (log, registry) = open(&dir.sqlite()).await;
    log.record(record("before", 1, "bob"));
    until(&registry, "causeway_call_log_written_total 1").await;

    // Another program holds the file: every write fails until it lets go.
    let url = format!("sqlite://{}/calls.db", dir.0.display());
    let other = sqlx::SqlitePool::connect(&url).await.unwrap();
    let mut holder = other.acquire().await.unwrap();
    sqlx::query("begin exclusive").execute(&mut *holder).await.unwrap();
    for id in ["x", "y", "z"] {
        log.record(record(id, 2, "bob"));
    }
    until(&registry, "causeway_call_log_spilled_total 3").await;
    log.record(record("x", 2, "bob"));
    until(&registry, "causeway_call_log_spilled_total 4").await;
    assert_eq!(dir.spilled().lines().count() % 4, 0, "appended, or already aside for replay");
    sqlx::query("rollback").execute(&mut *holder).await.unwrap();
    drop(holder);
    other.close().await;

    until(&registry, "causeway_call_log_written_total 4").await;
    log.close().await;
    let (log, _) = open(&dir.sqlite()).await;
    assert_eq!(ids(&log, &CallQuery::default()).await, ["z", "y", "x", "before"]);
    assert_eq!(log.get("x").await.unwrap().unwrap().participants.len(), 2);
    log.close().await;
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().filter(is_jsonl).count(), 0);
}

fn is_jsonl(entry: &std::io::Result<std::fs::DirEntry>) -> bool {
    entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "jsonl")
}

#[tokio::test]
async fn what_an_earlier_run_left_on_disk_is_written_at_start() {
    let dir = Dir::new("restart");
    let mut spill = Spill::open(&dir.0).unwrap();
    spill.append(&record("a", 1, "bob")).unwrap();
    drop(spill.replay().unwrap()); // it died in the middle of a replay
    spill.append(&record("b", 2, "bob")).unwrap();
    spill.append(&record("a", 1, "bob")).unwrap();
    let half = serde_json::to_string(&record("c", 3, "bob")).unwrap().split_off(40);
    std::fs::write(dir.0.join("calls.jsonl"), dir.spilled() + &half).unwrap();

    let (log, registry) = open(&dir.sqlite()).await;
    until(&registry, "causeway_call_log_written_total 2").await;
    log.close().await;
    let (log, _) = open(&dir.sqlite()).await;
    assert_eq!(ids(&log, &CallQuery::default()).await, ["b", "a"]);
    log.close().await;
    assert_eq!(std::fs::read_to_string(dir.0.join("calls.unreadable.jsonl")).unwrap(), half + "\n");
}

#[tokio::test]
async fn memory_is_bounded_and_what_comes_after_closing_waits() {
    let dir = Dir::new("bounded");
    let (log, registry) = open(&dir.sqlite()).await;
    // No await in between: the writer, on this same thread, cannot run.
    for i in 0..QUEUE_MAX + 5 {
        log.record(record(&format!("r{i:05}"), i as u64, "bob"));
    }
    assert_eq!(dir.spilled().lines().count(), 5);
    assert!(registry.encode().contains(&format!("causeway_call_log_queued {QUEUE_MAX}\n")));
    log.close().await;
    log.record(record("late", 0, "bob"));
    assert_eq!(dir.spilled().lines().count(), 1);
    let (log, registry) = open(&dir.sqlite()).await;
    until(&registry, "causeway_call_log_written_total 1").await;
    assert!(log.get("late").await.unwrap().is_some());
    assert!(log.get(&format!("r{:05}", QUEUE_MAX + 4)).await.unwrap().is_some());
    log.close().await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_named() {
    let dir = Dir::new("settings");
    let file = dir.0.join("file");
    std::fs::write(&file, "not a database, and longer than the hundred bytes of its header".repeat(3))
        .unwrap();
    let check = async |url: String, spill_dir: PathBuf, expected: &str| {
        let config = config::Store { url: Secret(url.into_bytes()), spill_dir };
        let error = CallLog::open_with(&config, &Registry::new(), QUICK).await.err().expect("refused");
        assert!(error.to_string().starts_with(expected), "{error}");
    };
    check("postgres://[".into(), dir.0.clone(), "store.url: ").await;
    check(format!("sqlite://{}", file.display()), dir.0.clone(), "store.url: cannot open").await;
    check(format!("sqlite://{}/x.db", file.display()), dir.0.clone(), "store.url: cannot make").await;
    check("sqlite::memory:".into(), file.clone(), "store.spill_dir: ").await;
}

/// The URL of a PostgreSQL server whose tables may be dropped, or `None` after saying why not.
fn postgres() -> Option<String> {
    let url = std::env::var("CAUSEWAY_TEST_POSTGRES").ok();
    if url.is_none() {
        println!("skipped: CAUSEWAY_TEST_POSTGRES holds no URL of a PostgreSQL server");
    }
    url
}

/// An empty schema, so that tests and runs do not meet.
async fn empty_schema(url: &str, schema: &str) -> String {
    let pool = sqlx::PgPool::connect(url).await.unwrap();
    for statement in [format!("drop schema if exists {schema} cascade"), format!("create schema {schema}")] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    pool.close().await;
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options=-c%20search_path%3D{schema}")
}

#[tokio::test]
async fn postgres_keeps_the_calls() {
    let Some(url) = postgres() else { return };
    let dir = Dir::new("postgres");
    let url = empty_schema(&url, "causeway_calls").await;
    check_log(&config::Store { url: Secret(url.into_bytes()), spill_dir: dir.0.clone() }).await;
}

#[tokio::test]
async fn postgres_may_be_away_at_the_start_and_later() {
    let Some(url) = postgres() else { return };
    let dir = Dir::new("postgres-away");
    let url = empty_schema(&url, "causeway_outage").await;
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let server = format!("{}:{}", options.get_host(), options.get_port());
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let detour = url.replacen(&server, &door.to_string(), 1);
    assert_ne!(url, detour, "the test needs host:port in the URL");
    let config = config::Store { url: Secret(detour.into_bytes()), spill_dir: dir.0.clone() };

    let (log, registry) = open(&config).await;
    log.record(record("a", 1, "bob"));
    until(&registry, "causeway_call_log_spilled_total 1").await;
    assert!(log.list(&CallQuery::default()).await.is_err());

    let open_door = |server: String| async move {
        let listener = TcpListener::bind(door).await.unwrap();
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&server).await.unwrap();
            connections.spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    };
    let proxy = tokio::spawn(open_door(server.clone()));
    until(&registry, "causeway_call_log_written_total 1").await;
    proxy.abort();
    let _ = proxy.await;
    log.record(record("b", 2, "bob"));
    until(&registry, "causeway_call_log_spilled_total 2").await;
    let proxy = tokio::spawn(open_door(server));
    until(&registry, "causeway_call_log_written_total 2").await;
    assert_eq!(ids(&log, &CallQuery::default()).await, ["b", "a"]);
    log.close().await;
    proxy.abort();
}
