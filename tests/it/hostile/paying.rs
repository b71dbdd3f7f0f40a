//! Who the others are: two users in a call, whose messages are timed while somebody attacks.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::client::Client;
use crate::server::{SECRET, Server};

/// The setting with which [`Server::sign_in`] works in dev mode.
pub fn known_secret() -> String {
    format!("auth.secret={SECRET}")
}

/// While attacked, 99 of 100 exchanges take no longer than this, or than 20 times what they take in peace: the tests share
/// two cores with the attackers.
const P99_MAX: Duration = Duration::from_millis(500);
const P99_TIMES: u32 = 20;

/// Exchanges in peace.
const QUIET_ROUNDS: usize = 40;

/// Between two exchanges; well within the message rate.
const PAUSE: Duration = Duration::from_millis(10);

/// Alice and Bob, who are in a call.
pub struct Paying {
    alice: Client,
    bob: Client,
}

impl Paying {
    pub async fn start(server: &Server) -> Self {
        let (mut alice, mut bob) = (server.sign_in("alice").await, server.sign_in("bob").await);
        let call =
            json!({"type": "call-initiate", "callId": "paid", "recipientIds": ["bob"], "callType": "video"});
        alice.send(call).await;
        bob.expect("incoming-call").await;
        bob.send(json!({"type": "call-answer", "callId": "paid"})).await;
        alice.expect("call-answered").await;
        Self { alice, bob }
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
    let mut quiet = Vec::new();
    for _ in 0..QUIET_ROUNDS {
        quiet.push(paying.exchange().await);
        sleep(PAUSE).await;
    }
    let (before, mut most) = (server.resident_kib(), 0);
    let (mut attack, mut attacked) = (tokio::spawn(attack), Vec::new());
    let outcome = loop {
        attacked.push(paying.exchange().await);
        most = most.max(server.resident_kib());
        tokio::select! {
            outcome = &mut attack => break outcome.expect("the attacker reports its failures"),
            () = sleep(PAUSE) => {}
        }
    };
    let (quiet, attacked) = (p99(quiet), p99(attacked));
    let grown = most.saturating_sub(before);
    println!("p99 {quiet:?}, under attack {attacked:?}; {before} KiB of memory, grown by {grown} KiB");
    assert!(attacked <= P99_MAX.max(quiet * P99_TIMES), "p99 {attacked:?}, {quiet:?} in peace");
    assert!(grown <= growth_kib_max, "memory grew by {grown} KiB, above {growth_kib_max} KiB");
    paying.hang_up().await;
    outcome
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}
