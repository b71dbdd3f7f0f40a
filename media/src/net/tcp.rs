//! ICE-TCP (RFC 6544, passive): connections that carry RFC 4571 frames, on the same port number as UDP.
//!
//! ```text
//! |  length (16 bit)  |  STUN, DTLS or SRTP datagram, length bytes  |
//! ```
//!
//! Each connection has a number, which the core knows as [`crate::ice::Via::Tcp`]. All limits are per worker.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// No datagram that a client sends is larger; a longer frame ends the connection.
const FRAME_BYTES_MAX: usize = 2048;
/// Frames that wait for a slow reader; the next is dropped, as by a full router.
const FRAMES_QUEUED_MAX: usize = 512;
/// Connections of one worker; further ones are closed at once.
const CONNECTIONS_MAX: usize = 4096;
/// Connections from one address.
const CONNECTIONS_PER_IP_MAX: usize = 64;
/// How long a connection may be there without the core having answered it, which it does only to valid STUN.
const UNANSWERED_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent later: longer than ICE consent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What connections tell the worker.
#[derive(Debug)]
pub enum TcpInput {
    /// A client has connected.
    Opened(TcpStream, SocketAddr),
    /// A datagram arrived.
    Frame(u64, SocketAddr, Vec<u8>),
    /// The connection is over.
    Closed(u64),
}

struct Connection {
    ip: IpAddr,
    frames: mpsc::Sender<Vec<u8>>,
    reader: tokio::task::JoinHandle<()>,
    answered: watch::Sender<bool>,
}

/// A worker's connections.
pub struct Tcp {
    connections: HashMap<u64, Connection>,
    next: u64,
    input: mpsc::Sender<TcpInput>,
    /// Frames that did not fit into a slow connection's queue.
    pub dropped: u64,
}

impl Tcp {
    /// No connections yet; what they receive goes into `input`.
    pub fn new(input: mpsc::Sender<TcpInput>) -> Self {
        Self { connections: HashMap::new(), next: 0, input, dropped: 0 }
    }

    /// Accepts until the listener is gone.
    pub async fn accept(listener: TcpListener, input: mpsc::Sender<TcpInput>) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    if input.send(TcpInput::Opened(stream, from)).await.is_err() {
                        return;
                    }
                }
                // Out of file descriptors, or a connection that was reset meanwhile: wait for better times.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Starts serving a connection, unless there are too many.
    pub fn open(&mut self, stream: TcpStream, from: SocketAddr) {
        let same_ip = self.connections.values().filter(|connection| connection.ip == from.ip()).count();
        let exempt = from.ip().is_loopback();
        if self.connections.len() >= CONNECTIONS_MAX || (same_ip >= CONNECTIONS_PER_IP_MAX && !exempt) {
            return;
        }
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let (frames, queue) = mpsc::channel(FRAMES_QUEUED_MAX);
        let (answered, is_answered) = watch::channel(false);
        let number = self.next;
        self.next += 1;
        tokio::spawn(write_frames(write, queue));
        let input = self.input.clone();
        let reader = tokio::spawn(async move {
            read_frames(read, number, from, &input, is_answered).await;
            let _ = input.send(TcpInput::Closed(number)).await;
        });
        self.connections.insert(number, Connection { ip: from.ip(), frames, reader, answered });
    }

    /// Queues a datagram.
    pub fn send(&mut self, number: u64, datagram: &[u8]) {
        let Some(connection) = self.connections.get(&number) else { return };
        connection.answered.send_replace(true);
        let mut frame = Vec::with_capacity(2 + datagram.len());
        frame.extend_from_slice(&(datagram.len() as u16).to_be_bytes());
        frame.extend_from_slice(datagram);
        if connection.frames.try_send(frame).is_err() {
            self.dropped += 1;
        }
    }

    /// Forgets a connection that has ended.
    pub fn close(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(&number) {
            connection.reader.abort();
        }
    }
}

async fn write_frames(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn read_frames(
    mut read: OwnedReadHalf,
    number: u64,
    from: SocketAddr,
    input: &mpsc::Sender<TcpInput>,
    answered: watch::Receiver<bool>,
) {
    let unanswered_until = Instant::now() + UNANSWERED_TIMEOUT;
    let mut buffer = BytesMut::with_capacity(2 * FRAME_BYTES_MAX);
    loop {
        while let Some(frame) = take_frame(&mut buffer) {
            let Ok(frame) = frame else { return };
            if input.send(TcpInput::Frame(number, from, frame)).await.is_err() {
                return;
            }
        }
        let is_answered = *answered.borrow();
        let until = if is_answered { Instant::now() + IDLE_TIMEOUT } else { unanswered_until };
        match tokio::time::timeout_at(until, read.read_buf(&mut buffer)).await {
            Ok(Ok(1..)) => {}
            // It was answered while we waited for more.
            Err(_) if !is_answered && *answered.borrow() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// The next whole frame, or that what follows is none.
fn take_frame(buffer: &mut BytesMut) -> Option<Result<Vec<u8>, ()>> {
    let length = usize::from(u16::from_be_bytes([*buffer.first()?, *buffer.get(1)?]));
    if length == 0 || length > FRAME_BYTES_MAX {
        return Some(Err(()));
    }
    if buffer.len() < 2 + length {
        return None;
    }
    buffer.advance(2);
    Some(Ok(buffer.split_to(length).to_vec()))
}
