//! Who the others are: two users in a call, with media through the SFU and packets through the relay, while somebody attacks.
//!
//! A run has a quiet phase and an attacked one. In both, messages of the call are exchanged and timed, and [`flows`] go on.
//! The attackers run in threads of low priority: what is measured is the server, not who else wants its processors.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep;

use super::flows::{self, Flow, Outcome};
use crate::client::Client;
use crate::server::{SECRET, Server};

/// The setting with which [`Server::sign_in`] works in dev mode.
pub fn known_secret() -> String {
    format!("auth.secret={SECRET}")
}

/// While attacked, 99 of 100 exchanges of messages take no longer than this, or than five times what they take in peace.
const MESSAGES_P99_MAX: Duration = Duration::from_millis(200);
/// The same of packets, through the SFU and through the relay and back. Of a hundred packets that is the slowest but one: a
/// machine that does something else for a moment must not fail this, an attack that is felt takes longer.
const PACKETS_P99_MAX: Duration = Duration::from_millis(150);
const P99_TIMES: u32 = 5;

/// Of a thousand packets of a flow so many may be lost, and two in any case: a flow has some hundred.
const LOST_PER_THOUSAND: usize = 10;

/// Exchanges in peace.
const QUIET_ROUNDS: usize = 60;

/// An attack that is over sooner is watched for so long, with what comes after it.
const ATTACKED_MIN: Duration = Duration::from_secs(1);

/// Between two exchanges; well within the message rate.
const PAUSE: Duration = Duration::from_millis(10);

/// What has not arrived by then is lost.
const LATE: Duration = Duration::from_millis(500);

/// The attackers' threads give way to everybody else's.
const NICE: i32 = 10;

static ATTACKERS: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(|| {
            rustix::process::nice(NICE).expect("anybody may be nicer"); // on Linux, of this thread
        })
        .build()
        .expect("threads")
});

/// Held by every test that attacks, from its beginning: one attack at a time is enough to measure.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Alice and Bob, who are in a call and in a room, and what they send.
pub struct Paying {
    alice: Client,
    bob: Client,
    media: Flow,
    relay: Flow,
}

/// What a phase was like for them.
struct Phase {
    messages: Vec<Duration>,
    media: Outcome,
    relay: Outcome,
}

impl Paying {
    pub async fn start(server: &Server) -> Self {
        let (mut alice, mut bob) = (server.sign_in("alice").await, server.sign_in("bob").await);
        let media = flows::media(server, &mut alice, &mut bob).await;
        let relay = flows::relay(server).await;
        let call =
            json!({"type": "call-initiate", "callId": "paid", "recipientIds": ["bob"], "callType": "video"});
        alice.send(call).await;
        bob.expect("incoming-call").await;
        bob.send(json!({"type": "call-answer", "callId": "paid"})).await;
        alice.expect("call-answered").await;
        Self { alice, bob, media, relay }
    }

    /// One message there and one back.
    pub async fn exchange(&mut self) -> Duration {
        let message = |to: &str| {
            json!({"type": "ice-candidate", "callId": "paid", "recipientId": to,
                   "candidate": {"candidate": "candidate:1 1 udp 1 192.0.2.1 9 typ host", "sdpMid": "0"}})
        };
        let started = Instant::now();
        self.alice.send(message("bob")).await;
        self.bob.expect("ice-candidate").await;
        self.bob.send(message("alice")).await;
        self.alice.expect("ice-candidate").await;
        started.elapsed()
    }

    /// The phase of these exchanges, which began then and ends now.
    async fn phase(&self, from: Instant, mut messages: Vec<Duration>) -> Phase {
        let to = Instant::now();
        sleep(LATE).await;
        messages.sort_unstable();
        Phase {
            messages,
            media: self.media.tally.between(from, to),
            relay: self.relay.tally.between(from, to),
        }
    }

    pub async fn hang_up(mut self) {
        self.alice.send(json!({"type": "call-end", "callId": "paid", "forAll": true})).await;
        self.bob.expect("call-ended").await;
    }
}

/// Attacks a server while its paying users go on, and returns what the attack returns. The process may grow by so many KiB.
pub async fn while_attacked<T: Send + 'static>(
    server: &Server,
    growth_kib_max: u64,
    attack: impl Future<Output = T> + Send + 'static,
) -> T {
    let mut paying = Paying::start(server).await;
    let (began, mut quiet) = (Instant::now(), Vec::new());
    for _ in 0..QUIET_ROUNDS {
        quiet.push(paying.exchange().await);
        sleep(PAUSE).await;
    }
    let quiet = paying.phase(began, quiet).await;
    let (before, mut most) = (server.resident_kib(), 0);
    let (began, mut attacked) = (Instant::now(), Vec::new());
    let attack = ATTACKERS.spawn(attack);
    while !attack.is_finished() || began.elapsed() < ATTACKED_MIN {
        attacked.push(paying.exchange().await);
        most = most.max(server.resident_kib());
        sleep(PAUSE).await;
    }
    let outcome = attack.await.expect("the attacker reports its failures");
    let attacked = paying.phase(began, attacked).await;
    judge(&quiet, &attacked);
    for (what, flow) in [("media", &paying.media), ("relay", &paying.relay)] {
        assert_eq!(flow.tally.strays(), 0, "{what}: packets of somebody else arrived");
    }
    let grown = most.saturating_sub(before);
    println!("{before} KiB of memory, grown by {grown} KiB");
    assert!(grown <= growth_kib_max, "memory grew by {grown} KiB, above {growth_kib_max} KiB");
    paying.hang_up().await;
    outcome
}

fn judge(quiet: &Phase, attacked: &Phase) {
    let mut wrong = Vec::new();
    let mut slower = |what: &str, quiet: &[Duration], attacked: &[Duration], most: Duration| {
        let (before, now) = (p99(quiet), p99(attacked));
        println!("{what}: p99 {before:?}, under attack {now:?} (of {})", attacked.len());
        if now > most.max(before * P99_TIMES) {
            wrong.push(format!("{what}: p99 {now:?}, {before:?} in peace"));
        }
    };
    slower("messages", &quiet.messages, &attacked.messages, MESSAGES_P99_MAX);
    slower("media", &quiet.media.delays, &attacked.media.delays, PACKETS_P99_MAX);
    slower("relay", &quiet.relay.delays, &attacked.relay.delays, PACKETS_P99_MAX);
    for (what, flow) in [("media", &attacked.media), ("relay", &attacked.relay)] {
        println!("{what}: {} of {} packets lost", flow.lost, flow.sent);
        if flow.lost > 2.max(flow.sent * LOST_PER_THOUSAND / 1000) {
            wrong.push(format!("{what}: {} of {} packets lost", flow.lost, flow.sent));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Of sorted times.
fn p99(times: &[Duration]) -> Duration {
    times.get(times.len() * 99 / 100).copied().expect("something got through")
}
