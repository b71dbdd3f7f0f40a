//! One WebSocket connection (RFC 6455): frames in, to the hub; the hub's messages out; and how it ends.
//!
//! Reading and writing go on side by side, so that a client which does not read cannot stop us from hearing it, and a
//! busy hub cannot stop us from writing. Whatever ends the connection, the hub is told once.

use std::time::{Duration, Instant};

use common::ids::SessionId;
use common::token::Claims;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper_tungstenite::HyperWebsocketStream;
use hyper_tungstenite::tungstenite::error::ProtocolError;
use hyper_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use hyper_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use hyper_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::hub::{HubHandle, Stopped};
use super::outlet::{Outgoing, OutletReader, outlet};
use crate::hub::{ConnId, Input};

/// A write that makes no progress for so long: the client is gone or does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the other side may take for its part of the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a client may still send of an oversized message before we cut it off: unread bytes would make the kernel reset
/// the connection, and the close code would be lost.
const DISCARD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Pongs prove life; more often than this they prove nothing new.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes that tungstenite may buffer beyond the kernel's buffer. Above the longest message that the hub makes.
const WRITE_BUFFER_MAX: usize = 16 * 1024 * 1024;

/// What may be sent at once, in seconds of the pace.
const PACE_BURST_SECS: f64 = 4.0;

/// What a ping or a pong counts as, whatever its length: each wakes us, and a ping wants an answer.
const CONTROL_FRAME_COST_BYTES: usize = 1024;

type Sink = SplitSink<HyperWebsocketStream, Message>;
type Stream = SplitStream<HyperWebsocketStream>;

/// The limits of every connection.
pub(super) fn config(max_message: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(16 * 1024)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}

/// How many bytes a client may send: as many a second as its largest message has, and four such messages at once. Parsing
/// costs by the byte, and the hub parses for everybody; who sends more is read more slowly.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: f64,
    /// Below zero is debt, which is waited for.
    budget: f64,
    filled_at: Instant,
}

impl Pace {
    pub(super) fn new(max_message: usize, now: Instant) -> Self {
        let bytes_per_second = max_message as f64;
        Self { bytes_per_second, budget: PACE_BURST_SECS * bytes_per_second, filled_at: now }
    }

    /// How long the client has to wait because it has sent this much.
    fn spend(&mut self, bytes: usize, now: Instant) -> Duration {
        let earned = now.duration_since(self.filled_at).as_secs_f64() * self.bytes_per_second;
        self.filled_at = now;
        self.budget = (self.budget + earned).min(PACE_BURST_SECS * self.bytes_per_second) - bytes as f64;
        Duration::from_secs_f64((-self.budget / self.bytes_per_second).max(0.0))
    }

    async fn wait(&mut self, bytes: usize) {
        let debt = self.spend(bytes, Instant::now());
        if !debt.is_zero() {
            tokio::time::sleep(debt).await;
        }
    }
}

/// How a connection came to its end.
#[derive(Debug)]
enum End {
    /// The client sent a close frame.
    ClosedByClient(u16),
    /// The hub has asked for it; the frame is written.
    ClosedByHub,
    /// The client broke a rule of the transport: this code and reason are for it.
    Fault(u16, &'static str),
    /// End of file, reset, or no progress in writing.
    Lost,
    /// The hub's task is gone.
    Stopped,
}

impl From<Stopped> for End {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// Completes the closing handshake with a client who may not come in.
pub(super) async fn refuse(mut socket: HyperWebsocketStream, code: u16, reason: &'static str) {
    let frame = Message::Close(Some(close_frame(code, reason)));
    let _ = timeout(CLOSE_TIMEOUT, async {
        socket.send(frame).await?;
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
        Ok::<(), Error>(())
    })
    .await; // a client who does not answer is simply dropped
}

/// A connection's whole life, once its token has been found good.
pub(super) async fn run(
    socket: HyperWebsocketStream,
    conn: ConnId,
    claims: Claims,
    resume: Option<SessionId>,
    hub: HubHandle,
    pace: Pace,
) {
    let (outlet, mut outgoing) = outlet();
    if hub.connect(conn, claims, resume, outlet).await.is_err() {
        return refuse(socket, 1012, "Restarting").await;
    }
    let (mut sink, mut stream) = socket.split();
    let overflow = outgoing.overflow();
    let end = tokio::select! {
        end = read(&mut stream, conn, &hub, pace) => end,
        end = write(&mut sink, &mut outgoing) => end,
        () = overflow.cancelled() => End::Fault(1013, "Reading too slowly"),
    };
    tracing::debug!(conn = conn.0, ?end, "connection ends");
    let input = match end {
        End::ClosedByClient(code) => Input::Closed { conn, code: Some(code) },
        End::Fault(code, _) => Input::CutOff { conn, code },
        End::ClosedByHub | End::Lost | End::Stopped => Input::Closed { conn, code: None },
    };
    // The hub hears of it before we wait for the client's part of the handshake.
    let _ = hub.input(input).await;
    finish(end, sink, stream).await;
}

/// Reads until the connection ends. Waits for the hub when it is busy, and so makes the client wait.
async fn read(stream: &mut Stream, conn: ConnId, hub: &HubHandle, mut pace: Pace) -> End {
    let mut alive_at = None::<Instant>;
    while let Some(message) = stream.next().await {
        if let Ok(message) = &message {
            pace.wait(cost_bytes(message)).await;
        }
        let input = match message {
            Ok(Message::Text(text)) => {
                let input = Input::Text { conn, text: text.as_str().into() };
                match hub.message(input).await {
                    Ok(()) => continue,
                    Err(stopped) => return stopped.into(),
                }
            }
            Ok(Message::Binary(_)) => Input::NotText { conn },
            Ok(Message::Close(frame)) => return End::ClosedByClient(close_code(frame)),
            Ok(_) if alive_at.is_some_and(|at| at.elapsed() < ALIVE_INTERVAL) => continue,
            Ok(_) => {
                alive_at = Some(Instant::now());
                Input::Alive { conn }
            }
            Err(error) => return fault(&error),
        };
        if let Err(stopped) = hub.input(input).await {
            return stopped.into();
        }
    }
    End::Lost
}

fn cost_bytes(message: &Message) -> usize {
    match message {
        Message::Ping(_) | Message::Pong(_) => CONTROL_FRAME_COST_BYTES,
        other => other.len(),
    }
}

/// RFC 6455 §7.1.5: a close frame without a code counts as 1005. It is what a browser's `close()` sends: somebody wanted to
/// go, unlike 1006, where no frame came.
fn close_code(frame: Option<CloseFrame>) -> u16 {
    frame.map_or(CloseCode::Status, |frame| frame.code).into()
}

/// RFC 6455 §7.4.1: what the client did wrong.
fn fault(error: &Error) -> End {
    match error {
        Error::Capacity(_) => End::Fault(1009, "Message too large"),
        Error::Utf8(_) => End::Fault(1007, "Invalid UTF-8"),
        // The end of the stream: the network's doing, not the client's, and the session may resume.
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Lost,
        Error::Protocol(_) => End::Fault(1002, "Protocol error"),
        _ => End::Lost,
    }
}

/// Writes what the hub puts into the outlet, everything that waits in one go.
async fn write(sink: &mut Sink, outgoing: &mut OutletReader) -> End {
    while let Some(first) = outgoing.next().await {
        let mut next = Some(first);
        while let Some(item) = next {
            let closing = matches!(item, Outgoing::Close { .. });
            let fed = timeout(WRITE_TIMEOUT, sink.feed(message(item))).await;
            if !matches!(fed, Ok(Ok(()))) {
                return End::Lost;
            }
            if closing {
                let _ = timeout(CLOSE_TIMEOUT, sink.flush()).await;
                return End::ClosedByHub;
            }
            next = outgoing.next_now();
        }
        if !matches!(timeout(WRITE_TIMEOUT, sink.flush()).await, Ok(Ok(()))) {
            return End::Lost;
        }
    }
    End::Stopped
}

fn message(outgoing: Outgoing) -> Message {
    match outgoing {
        Outgoing::Text(text) => Message::Text(Utf8Bytes::from(&*text)),
        Outgoing::Ping => Message::Ping(Default::default()),
        Outgoing::Close { code, reason } => Message::Close(Some(close_frame(code, reason))),
    }
}

fn close_frame(code: u16, reason: &'static str) -> CloseFrame {
    CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(reason) }
}

/// Our part of the closing handshake, bounded in time and bytes.
async fn finish(end: End, mut sink: Sink, mut stream: Stream) {
    let _ = timeout(CLOSE_TIMEOUT, async {
        match end {
            End::Lost => {}
            End::ClosedByClient(_) | End::ClosedByHub => {
                while stream.next().await.is_some_and(|message| message.is_ok()) {}
            }
            End::Stopped => {
                let _ = sink.send(Message::Close(Some(close_frame(1012, "Restarting")))).await;
            }
            End::Fault(code, reason) => {
                let _ = sink.send(Message::Close(Some(close_frame(code, reason)))).await;
                discard(sink, stream).await;
            }
        }
    })
    .await; // a client who takes longer has had its chance
}

/// Ends our direction and reads the rest of what is no longer understood.
async fn discard(sink: Sink, stream: Stream) {
    let Ok(mut socket) = sink.reunite(stream) else { return };
    let raw = socket.get_mut();
    let _ = raw.shutdown().await;
    let _ = tokio::io::copy(&mut raw.take(DISCARD_BYTES_MAX), &mut tokio::io::sink()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_more_than_the_pace_waits_and_no_longer_than_a_message_takes() {
        let now = Instant::now();
        let mut pace = Pace::new(1000, now);
        assert_eq!((0..4).map(|_| pace.spend(1000, now)).sum::<Duration>(), Duration::ZERO);
        assert_eq!(pace.spend(1000, now), Duration::from_secs(1));
        assert_eq!(pace.spend(500, now + Duration::from_secs(1)), Duration::from_millis(500));
        assert_eq!(pace.spend(1000, now + Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn a_close_frame_without_a_code_is_1005() {
        assert_eq!(close_code(None), 1005);
        assert_eq!(close_code(Some(close_frame(1001, ""))), 1001);
    }
}
