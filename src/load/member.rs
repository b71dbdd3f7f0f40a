//! One member of a room: joins, publishes or subscribes, stays, leaves, and says how it went.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};

use super::leg::Leg;
use super::listener::Stream;
use super::signal::Signal;
use super::sink::{Seen, subscribe};
use super::source::{opus, publish, vp8};
use super::{LoadArgs, Shared};

/// Who is to join which room.
pub struct Member {
    /// Counts all publishers, or all subscribers.
    pub number: u32,
    room: u32,
    publishing: bool,
}

/// How a member's stay went.
pub enum Outcome {
    /// From the first byte of signaling to the last step of media.
    Joined(Duration, Seen),
    /// The member and why.
    Failed(String),
}

impl Outcome {
    /// A member who could not join.
    pub fn failed(member: &Member, error: &anyhow::Error) -> Self {
        Self::Failed(format!("{} in {}: {error:#}", member.user(), member.room()))
    }
}

/// A member who has joined.
pub struct Running {
    took: Duration,
    signal: JoinHandle<()>,
    media: JoinHandle<Seen>,
}

impl Running {
    /// Waits until it has left.
    pub async fn end(self) -> Outcome {
        let _ = self.signal.await;
        Outcome::Joined(self.took, self.media.await.expect("a member does not panic"))
    }
}

impl Member {
    /// All publishers or all subscribers, room by room.
    pub fn all(args: &LoadArgs, publishing: bool) -> impl Iterator<Item = Self> + use<> {
        let each = if publishing { args.publishers } else { args.subscribers };
        (0..args.rooms * each).map(move |number| Self { number, room: number / each, publishing })
    }

    fn user(&self) -> String {
        format!("load-{}{}", if self.publishing { "p" } else { "s" }, self.number)
    }

    fn room(&self) -> String {
        format!("load-{}", self.room)
    }

    /// Joins and begins to send or to receive.
    pub async fn join(
        &self,
        shared: &Arc<Shared>,
        stopped: &watch::Receiver<bool>,
    ) -> anyhow::Result<Running> {
        let began = Instant::now();
        let mut signal = Signal::open(&shared.server, &self.user()).await?;
        let mut room = signal.ask(json!({"type": "join-room", "roomId": self.room()})).await?;
        let media = if self.publishing {
            let leg = Leg::connect(&mut signal, "send").await?;
            announce(&mut signal, &leg, &shared.args).await?;
            let sending = publish(leg, shared.clone(), stopped.clone());
            spawn_local(async {
                sending.await;
                Seen::default()
            })
        } else {
            let leg = Leg::connect(&mut signal, "recv").await?;
            let transport = leg.id.clone();
            let (announce, announced) = mpsc::unbounded_channel(); // as many as the room has producers
            let receiving = spawn_local(subscribe(leg, shared.clone(), announced, stopped.clone()));
            consume(&mut signal, &transport, &mut room, &announce).await?;
            receiving
        };
        shared.joined.fetch_add(1, Ordering::Relaxed);
        let signal = spawn_local(signal.idle(stopped.clone()));
        Ok(Running { took: began.elapsed(), signal, media })
    }
}

async fn announce(signal: &mut Signal, leg: &Leg, args: &LoadArgs) -> anyhow::Result<()> {
    let audio = args.audio.then(|| ("audio", "microphone", opus()));
    let encodings = args.encodings().len();
    let video = (encodings > 0).then(|| ("video", "camera", vp8(encodings)));
    for (kind, source, rtp) in audio.into_iter().chain(video) {
        let request = json!({"type": "produce", "transportId": leg.id, "kind": kind, "source": source,
                             "rtpParameters": rtp});
        signal.ask(request).await?;
    }
    Ok(())
}

/// Consumes all that the room has, from now on.
async fn consume(
    signal: &mut Signal,
    transport: &str,
    room: &mut Value,
    announce: &mpsc::UnboundedSender<Stream>,
) -> anyhow::Result<()> {
    let capabilities = room["rtpCapabilities"].take();
    for producer in room["producers"].as_array().into_iter().flatten() {
        let request = json!({"type": "consume", "transportId": transport, "producerId": producer["producerId"],
                             "rtpCapabilities": capabilities});
        let made = signal.ask(request).await?;
        if let Some(stream) = Stream::of(&made) {
            let _ = announce.send(stream); // who receives is told to stop before it does
        }
        signal.ask(json!({"type": "resume-consumer", "consumerId": made["id"]})).await?;
    }
    Ok(())
}
