//! What paying users send without pause while somebody attacks: audio and video through the SFU, packets through the relay.
//!
//! Every packet bears a number. What was sent in a phase and never arrived is lost, however late one waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::member::{self, Leg, rtp, vp8_frame};
use super::relayed::{Relayed, echo};
use crate::client::Client;
use crate::server::Server;

/// Between two packets of a stream: that of Opus.
const PACKET_TIME: Duration = Duration::from_millis(20);

/// Between two ICE checks; browsers do so every 2.5 s, and 30 s without one end the transport.
const CONSENT_TIME: Duration = Duration::from_secs(3);

const AUDIO_SSRC: u32 = 1001;
const VIDEO_SSRC: u32 = 2001;

/// When a packet was sent, and how long it took to arrive.
type Sent = (Instant, Option<Duration>);

/// The packets of a flow, by number.
#[derive(Clone, Default)]
pub struct Tally {
    packets: Arc<Mutex<Vec<Sent>>>,
    strays: Arc<AtomicUsize>,
}

/// What came of the packets of a phase.
#[derive(Debug)]
pub struct Outcome {
    pub sent: usize,
    pub lost: usize,
    /// Of those that arrived; sorted.
    pub delays: Vec<Duration>,
}

impl Tally {
    fn send(&self) -> [u8; 4] {
        let mut packets = self.packets.lock().expect("no flow panics");
        packets.push((Instant::now(), None));
        u32::try_from(packets.len() - 1).expect("a test is short").to_be_bytes()
    }

    fn arrived(&self, payload: &[u8]) {
        let mut packets = self.packets.lock().expect("no flow panics");
        let number = payload.last_chunk().map(|number| u32::from_be_bytes(*number) as usize);
        match number.and_then(|number| packets.get_mut(number)) {
            Some((sent, delay @ None)) => *delay = Some(sent.elapsed()),
            _ => drop(self.strays.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Packets that arrived and that nobody who pays has sent, or that arrived twice.
    pub fn strays(&self) -> usize {
        self.strays.load(Ordering::Relaxed)
    }

    /// What came of the packets that were sent from `from` until `to`.
    pub fn between(&self, from: Instant, to: Instant) -> Outcome {
        let packets = self.packets.lock().expect("no flow panics");
        let phase = || packets.iter().filter(|(sent, _)| (from..to).contains(sent));
        let mut delays: Vec<Duration> = phase().filter_map(|(_, delay)| *delay).collect();
        delays.sort_unstable();
        let sent = phase().count();
        Outcome { sent, lost: sent - delays.len(), delays }
    }
}

/// A task that sends and receives until it is dropped.
pub struct Flow {
    pub tally: Tally,
    task: JoinHandle<()>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Alice's audio and video to Bob, both of whom are in a room from now on.
pub async fn media(server: &Server, alice: &mut Client, bob: &mut Client) -> Flow {
    let room = "paying";
    member::join(alice, room).await;
    let capabilities = member::join(bob, room).await;
    let from = Leg::connect(server, alice, "send").await;
    let to = Leg::connect(server, bob, "recv").await;
    for (kind, parameters) in [("audio", member::opus(AUDIO_SSRC)), ("video", member::vp8(VIDEO_SSRC))] {
        let producer = member::produce(alice, &from, kind, parameters).await;
        member::consume(bob, &to, &producer, &capabilities).await;
    }
    let tally = Tally::default();
    let task = tokio::spawn(carry(from, to, tally.clone()));
    Flow { tally, task }
}

async fn carry(mut from: Leg, mut to: Leg, tally: Tally) {
    let (mut beat, mut consent) = (interval(PACKET_TIME), interval(CONSENT_TIME));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut back, mut forth) = ([0; 1500], [0; 1500]);
    let mut sequence = 0_u16;
    loop {
        tokio::select! {
            _ = beat.tick() => {
                sequence = sequence.checked_add(1).expect("a test is short");
                let (mark, index) = (tally.send(), u64::from(sequence));
                let audio = rtp(111, sequence, 960 * u32::from(sequence), AUDIO_SSRC, &mark);
                let audio = from.seal(&audio, index);
                let video = vp8_frame(sequence, VIDEO_SSRC, tally.send());
                let video = from.seal(&video, index);
                for packet in [audio, video] {
                    let _ = from.socket.send(&packet).await; // loopback takes it
                }
                from.poll().await;
                to.poll().await;
            }
            _ = consent.tick() => {
                from.consent().await;
                to.consent().await;
            }
            Ok(length) = from.socket.recv(&mut back) => {
                from.take(&mut back[..length]);
            }
            Ok(length) = to.socket.recv(&mut forth) => {
                if let Some(packet) = to.take(&mut forth[..length]) {
                    tally.arrived(&packet);
                }
            }
        }
    }
}

/// Alice's packets through a channel of the relay to a peer, and back.
pub async fn relay(server: &Server) -> Flow {
    let mut alice = Relayed::of_user(server, "alice").await;
    assert!(alice.open().await && alice.bind(echo().await).await, "the relay serves who pays");
    let tally = Tally::default();
    let kept = tally.clone();
    let task = tokio::spawn(async move {
        let mut beat = interval(PACKET_TIME);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut back = [0; 1500];
        loop {
            tokio::select! {
                _ = beat.tick() => alice.send(kept.send()).await,
                Ok(length) = alice.socket.recv(&mut back) => kept.arrived(&back[..length]),
            }
        }
    });
    Flow { tally, task }
}
