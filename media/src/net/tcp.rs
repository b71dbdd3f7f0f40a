//! ICE-TCP (RFC 6544, passive): connections that carry frames (`framing`), on the same port number as UDP.
//!
//! Each connection has a number, which the core knows as [`crate::ice::Via::Tcp`]. It lives for as long as the core answers
//! it, which the core does only to valid STUN and to whom it sends media: a client that sends garbage, or reads nothing, is
//! cut off.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use bytes::{Buf, BytesMut};
use common::metrics::{Counters, Registry};
use common::net::{AcceptErrors, Gate, Pass};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::framing::{FRAME_BYTES_MAX, Frame, next_frame};

/// Frames that wait for a slow reader; the next is dropped, as by a full router.
const FRAMES_QUEUED_MAX: usize = 512;
/// How long a connection may be there without the core having answered it.
const UNANSWERED_TIMEOUT: Duration = Duration::from_secs(10);
/// How long ago the last answer may be later: longer than ICE consent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What connections tell the worker.
#[derive(Debug)]
pub enum TcpInput {
    /// A client has connected.
    Opened(TcpStream, SocketAddr, Pass),
    /// A datagram arrived.
    Frame(u64, SocketAddr, Vec<u8>),
    /// The connection is over.
    Closed(u64),
}

struct Connection {
    frames: mpsc::Sender<Vec<u8>>,
    answered: watch::Sender<Option<Instant>>,
    reader: AbortHandle,
    writer: AbortHandle,
    _pass: Pass,
}

/// A writer whose client does not read would wait for ever.
impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

/// A worker's connections.
pub struct Tcp {
    connections: HashMap<u64, Connection>,
    next: u64,
    input: mpsc::Sender<TcpInput>,
    refused: Counters,
    /// Frames that did not fit into a slow connection's queue.
    pub dropped: u64,
}

impl Tcp {
    /// No connections yet; what they receive goes into `input`.
    pub fn new(input: mpsc::Sender<TcpInput>, registry: &Registry) -> Self {
        Self { connections: HashMap::new(), next: 0, input, refused: refused(registry), dropped: 0 }
    }

    /// Accepts until the worker is gone.
    pub async fn accept(
        listener: TcpListener,
        gate: Arc<Gate>,
        registry: Registry,
        input: mpsc::Sender<TcpInput>,
    ) {
        let mut errors = AcceptErrors::new(&registry, "media");
        let refused = refused(&registry);
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let Some(pass) = gate.enter(from.ip()) else {
                        refused.inc("too-many");
                        continue;
                    };
                    if input.send(TcpInput::Opened(stream, from, pass)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    if let Some(pause) = errors.pause(StdInstant::now(), &error) {
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
    }

    /// Starts serving a connection.
    pub fn open(&mut self, stream: TcpStream, from: SocketAddr, pass: Pass) {
        let _ = stream.set_nodelay(true); // without it packets are only later
        let (read, write) = stream.into_split();
        let (frames, queue) = mpsc::channel(FRAMES_QUEUED_MAX);
        let (answered, last_answer) = watch::channel(None);
        let number = self.next;
        self.next += 1;
        let writer = tokio::spawn(write_frames(write, queue)).abort_handle();
        let (input, refused) = (self.input.clone(), self.refused.clone());
        let reader = tokio::spawn(async move {
            if let Some(reason) = read_frames(read, number, from, &input, last_answer).await {
                refused.inc(reason);
            }
            let _ = input.send(TcpInput::Closed(number)).await; // without a worker nobody asks
        });
        let reader = reader.abort_handle();
        self.connections.insert(number, Connection { frames, answered, reader, writer, _pass: pass });
    }

    /// Queues a datagram.
    pub fn send(&mut self, number: u64, datagram: &[u8]) {
        let Some(connection) = self.connections.get(&number) else { return };
        let mut frame = Vec::with_capacity(2 + datagram.len());
        frame.extend_from_slice(&(datagram.len() as u16).to_be_bytes());
        frame.extend_from_slice(datagram);
        if connection.frames.try_send(frame).is_ok() {
            connection.answered.send_replace(Some(Instant::now()));
        } else {
            self.dropped += 1;
        }
    }

    /// Forgets a connection that has ended.
    pub fn close(&mut self, number: u64) {
        self.connections.remove(&number);
    }
}

fn refused(registry: &Registry) -> Counters {
    registry.counters("media_tcp_refused", "TCP connections to media that were refused or cut off", "reason")
}

async fn write_frames(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Reads until the connection ends: the reason, when it was we who ended it.
async fn read_frames(
    mut read: OwnedReadHalf,
    number: u64,
    from: SocketAddr,
    input: &mpsc::Sender<TcpInput>,
    answered: watch::Receiver<Option<Instant>>,
) -> Option<&'static str> {
    let unanswered_until = Instant::now() + UNANSWERED_TIMEOUT;
    let until = || answered.borrow().map_or(unanswered_until, |at| at + IDLE_TIMEOUT);
    let mut buffer = BytesMut::with_capacity(2 * FRAME_BYTES_MAX);
    loop {
        while let Some(frame) = take_frame(&mut buffer) {
            let Ok(frame) = frame else { return Some("framing") };
            if input.send(TcpInput::Frame(number, from, frame)).await.is_err() {
                return None;
            }
        }
        if until() <= Instant::now() {
            return Some("unanswered");
        }
        match tokio::time::timeout_at(until(), read.read_buf(&mut buffer)).await {
            // More came, or perhaps an answer went out while we waited for it.
            Ok(Ok(1..)) | Err(_) => {}
            Ok(_) => return None,
        }
    }
}

/// The next whole frame, or that what follows is none.
fn take_frame(buffer: &mut BytesMut) -> Option<Result<Vec<u8>, ()>> {
    match next_frame(buffer) {
        Frame::Whole(payload) => {
            let payload = payload.to_vec();
            buffer.advance(2 + payload.len());
            Some(Ok(payload))
        }
        Frame::More => None,
        Frame::Broken => Some(Err(())),
    }
}
