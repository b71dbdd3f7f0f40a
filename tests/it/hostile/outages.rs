//! What is really full, silent or small: a disk in a mount namespace, a database behind a line that one can cut, a cgroup's memory.
//! What cannot be made here (without root, without PostgreSQL) is said on standard error.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::paying::{alone, known_secret, while_attacked};
use super::scarcity::call;
use crate::server::Server;

/// Not `println!`, which the harness keeps to itself when a test passes.
fn skipped(what: &str) {
    writeln!(std::io::stderr(), "SKIPPED {what}").expect("stderr is open");
}

fn may_mount() -> bool {
    let tried = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// Takes every byte that a file system has left, until it is dropped.
struct Filler(PathBuf);

impl Filler {
    fn new(folder: PathBuf) -> Self {
        let path = folder.join("filler");
        let mut file = std::fs::File::create(&path).expect("the folder is there");
        while file.write_all(&[0; 4096]).is_ok() {}
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0); // its file system may be gone
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_a_byte_left_keeps_every_call_that_the_spill_has_taken() {
    if !may_mount() {
        return skipped("a full disk: no mount namespace of one's own here (needs root)");
    }
    let _alone = alone().await;
    let script = "mkdir -p full spill && mount -t tmpfs -o size=600k tmpfs full \
                  && mount -t tmpfs -o size=300k tmpfs spill && exec \"$0\" \"$@\"";
    let settings = ["store.url=sqlite://full/calls.db", "store.spill_dir=spill"];
    let server = Server::start_below(&["unshare", "-m", "sh", "-c", script], &settings);
    let inside = PathBuf::from(format!("/proc/{}/root", server.pid().as_raw_nonzero()))
        .join(server.folder.path().strip_prefix("/").expect("an absolute path"));
    let (mut carol, mut dave) = (server.sign_in("carol").await, server.sign_in("dave").await);
    call(&mut carol, &mut dave, "before").await;
    server.until_metric("causeway_call_log_written_total", 1).await;

    // The database's disk is full: what it does not take waits in the spill file, and is written when there is space again.
    let full = Filler::new(inside.join("full"));
    let (mut carol, mut dave) = while_attacked(&server, 32 * 1024, async move {
        for number in 0..100 {
            call(&mut carol, &mut dave, &format!("full-{number}")).await;
        }
        (carol, dave)
    })
    .await;
    server.until_metric("causeway_call_log_spilled_total", 20).await;
    drop(full);
    // Those, the first, and that of who pays.
    server.until_metric("causeway_call_log_written_total", 102).await;
    assert_eq!(server.metric("causeway_call_log_lost_total").await, 0);
    let mut logged = ids(&server, "carol").await;
    logged.sort_unstable();
    let mut called: Vec<String> = (0..100).map(|number| format!("full-{number}")).collect();
    called.push("before".to_owned());
    called.sort_unstable();
    assert_eq!(logged, called, "each call once");

    // Both are full: records are lost, and counted; calls go on, and records after it.
    let full = [Filler::new(inside.join("full")), Filler::new(inside.join("spill"))];
    for number in 0..60 {
        call(&mut carol, &mut dave, &format!("lost-{number}")).await;
    }
    server.until_metric("causeway_call_log_lost_total", 1).await;
    drop(full);
    let written = server.metric("causeway_call_log_written_total").await;
    call(&mut carol, &mut dave, "after").await;
    server.until_metric("causeway_call_log_written_total", written + 1).await;
}

/// The calls in a user's log, all pages of it.
async fn ids(server: &Server, user: &str) -> Vec<String> {
    let (mut ids, mut path) = (Vec::new(), "/v1/calls".to_owned());
    loop {
        let page = server.get_as(&server.minted(user), &path).await.json();
        let calls = page["calls"].as_array().expect("calls");
        ids.extend(calls.iter().map(|call| call["callId"].as_str().expect("an id").to_owned()));
        let Some(cursor) = page["cursor"].as_str() else { return ids };
        path = format!("/v1/calls?cursor={cursor}");
    }
}

/// How a [`Line`] treats what is sent on it.
const PASSES: u8 = 0;
const SLOW: u8 = 1;
/// Accepts, and says nothing.
const SILENT: u8 = 2;
/// Closes at once.
const CUT: u8 = 3;

/// A line to a database.
#[derive(Clone)]
struct Line(Arc<AtomicU8>);

impl Line {
    async fn to(database: Option<SocketAddr>, state: u8) -> (Self, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
        let port = listener.local_addr().expect("it is bound").port();
        let line = Self(Arc::new(AtomicU8::new(state)));
        let kept = line.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let line = kept.clone();
                tokio::spawn(async move {
                    let Some(database) = database else {
                        while line.may_pass().await {}
                        return;
                    };
                    let Ok(far) = TcpStream::connect(database).await else { return };
                    let (near, far) = (near.into_split(), far.into_split());
                    tokio::select! {
                        () = line.carry(near.0, far.1) => {}
                        () = line.carry(far.0, near.1) => {}
                    }
                });
            }
        });
        (line, port)
    }

    fn is_now(&self, state: u8) {
        self.0.store(state, Ordering::Relaxed);
    }

    /// Waits until something may pass, as long as the line is silent; `false` when it is cut.
    async fn may_pass(&self) -> bool {
        loop {
            match self.0.load(Ordering::Relaxed) {
                PASSES => return true,
                SLOW => {
                    sleep(Duration::from_millis(300)).await;
                    return true;
                }
                SILENT => sleep(Duration::from_millis(50)).await,
                _ => return false,
            }
        }
    }

    async fn carry(&self, mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf) {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut bytes).await {
            if !self.may_pass().await || to.write_all(&bytes[..length]).await.is_err() {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_accepts_and_says_nothing_is_not_waited_for() {
    let _alone = alone().await;
    let (_line, port) = Line::to(None, SILENT).await;
    let url = format!("store.url=postgres://causeway@127.0.0.1:{port}/causeway");
    let server = Server::start_with(&[&known_secret(), &url, "store.spill_dir=spill"]);
    let (mut carol, mut dave) = (server.sign_in("carol").await, server.sign_in("dave").await);
    while_attacked(&server, 32 * 1024, async move {
        for number in 0..100 {
            call(&mut carol, &mut dave, &format!("silent-{number}")).await;
        }
    })
    .await;
    server.until_metric("causeway_call_log_spilled_total", 101).await;
    assert_eq!(server.metric("causeway_call_log_lost_total").await, 0);
    assert_eq!(server.get_as(&server.minted("carol"), "/v1/calls").await.problem(503), "unavailable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_is_slow_silent_and_cut_off_gets_every_call_once_it_is_back() {
    let Ok(url) = std::env::var("CAUSEWAY_TEST_POSTGRES") else {
        return skipped("a database that goes and comes back: CAUSEWAY_TEST_POSTGRES holds no URL");
    };
    let _alone = alone().await;
    let (who, rest) = url.split_once('@').expect("a user");
    let (address, database) = rest.split_once('/').expect("a database");
    let (line, port) = Line::to(Some(address.parse().expect("an address")), PASSES).await;
    let url = format!("store.url={who}@127.0.0.1:{port}/{database}");
    let server = Server::start_with(&[&known_secret(), &url, "store.spill_dir=spill"]);
    // Of this run only, since the database outlives it.
    let user = format!("carol-{}", std::process::id());
    let (mut carol, mut dave) = (server.sign_in(&user).await, server.sign_in("dave").await);
    call(&mut carol, &mut dave, "before").await;
    server.until_metric("causeway_call_log_written_total", 1).await;
    let hand = line.clone();
    while_attacked(&server, 32 * 1024, async move {
        for (state, name) in [(SLOW, "slow"), (SILENT, "silent"), (CUT, "cut")] {
            hand.is_now(state);
            for number in 0..40 {
                call(&mut carol, &mut dave, &format!("{name}-{number}")).await;
                sleep(Duration::from_millis(20)).await;
            }
        }
        sleep(Duration::from_secs(6)).await; // nobody is waited for longer than five
    })
    .await;
    line.is_now(PASSES);
    server.until_metric("causeway_call_log_spilled_total", 1).await;
    server.until_metric("causeway_call_log_written_total", 1 + 3 * 40 + 1).await;
    assert_eq!(server.metric("causeway_call_log_lost_total").await, 0);
    let mut logged = ids(&server, &user).await;
    assert_eq!(logged.len(), 1 + 3 * 40);
    logged.sort_unstable();
    logged.dedup();
    assert_eq!(logged.len(), 1 + 3 * 40, "each call once");
}

/// A cgroup of one's own that may use so much memory, and goes when the test ends.
struct Cgroup(PathBuf);

impl Cgroup {
    /// In the hierarchy of version 2, or of version 1 where memory is there; `None` where neither may be written.
    fn new(bytes_max: u64) -> Option<Self> {
        let name = format!("causeway-it-{}", std::process::id());
        for (root, limit) in
            [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
        {
            let group = Self(PathBuf::from(root).join(&name));
            let there = std::fs::create_dir(&group.0).is_ok() && group.0.join("cgroup.procs").exists();
            if there && std::fs::write(group.0.join(limit), bytes_max.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }

    /// How often the kernel has killed something in it for want of memory.
    fn killed(&self) -> u64 {
        let text = ["memory.events", "memory.oom_control"]
            .iter()
            .find_map(|name| std::fs::read_to_string(self.0.join(name)).ok());
        let text = text.expect("one of them is there");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.map_or(0, |count| count.trim().parse().expect("a count"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0); // empty, since the server is gone
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_a_cgroup_of_little_memory_a_crowd_that_sends_does_not_end_the_process() {
    let Some(group) = Cgroup::new(160 << 20) else {
        return skipped("memory of a cgroup: cgroups are not writable here");
    };
    let _alone = alone().await;
    let script = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", group.0.display());
    let server = Server::start_below(&["sh", "-c", &script], &[]);
    let http = server.http;
    while_attacked(&server, 80 * 1024, async move {
        for _ in 0..3 {
            let mut crowd = Vec::new();
            for _ in 0..1000 {
                let mut stream = TcpStream::connect(http).await.expect("the kernel takes the connection");
                let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(8 * 1024));
                let _ = stream.write_all(head.as_bytes()).await; // refused ones are cut off
                crowd.push(stream);
            }
            sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(group.killed(), 0);
    // What a crowd has taken serves the next one: the second and third have not added to it.
    assert!(server.resident_kib() < 150 * 1024, "{} KiB are kept", server.resident_kib());
    drop(server);
}
