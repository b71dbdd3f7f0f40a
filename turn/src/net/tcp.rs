//! TCP in and out: STUN messages and ChannelData framed in a stream (RFC 8656 §12.5, RFC 8489 §6.2.2).
//!
//! A connection lives for as long as its allocation; before it has one it gets little time and little memory.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use common::metrics::{Counters, Registry};
use common::net::{AcceptErrors, Gate, Pass};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::outbox::Outbox;
use super::worker::SharedWorker;
use crate::channel_data;
use crate::relay::{ClientAddr, Input, Transport};
use crate::stun::header::HEADER_BYTES;

/// A connection that has no allocation after this long, or has lost it for this long, is closed: an Allocate request takes
/// two round trips.
const IDLE: Duration = Duration::from_secs(15);
/// The largest frame: a STUN message.
const FRAME_BYTES_MAX: usize = HEADER_BYTES + u16::MAX as usize;
/// The largest frame of a client without an allocation: all attributes of a request at their longest (RFC 8489 §14).
const STRANGER_FRAME_BYTES_MAX: usize = 4096;

/// Who is let in, and what is counted of the others.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    gate: Arc<Gate>,
    refused: Counters,
}

impl Admission {
    pub(super) fn new(gate: Arc<Gate>, registry: &Registry) -> Self {
        let help = "TCP connections to the relay that were refused or cut off";
        Self { gate, refused: registry.counters("turn_tcp_refused", help, "reason") }
    }
}

pub(super) async fn listen(
    worker: SharedWorker,
    listener: std::net::TcpListener,
    admission: Admission,
    mut errors: AcceptErrors,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a TCP listener could not be registered"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => match admission.gate.enter(remote.ip()) {
                Some(pass) => {
                    let refused = admission.refused.clone();
                    tokio::task::spawn_local(serve(Rc::clone(&worker), stream, remote, pass, refused));
                }
                None => admission.refused.inc("too-many"),
            },
            Err(error) => {
                if let Some(pause) = errors.pause(StdInstant::now(), &error) {
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

async fn serve(worker: SharedWorker, stream: TcpStream, remote: SocketAddr, pass: Pass, refused: Counters) {
    let Ok(local) = stream.local_addr() else { return };
    // A relayed packet that waits for its neighbours is late; without the option it still arrives.
    let _ = stream.set_nodelay(true);
    let outbox = Rc::new(Outbox::default());
    let connection = worker.borrow_mut().add_connection(Rc::clone(&outbox));
    let client = ClientAddr { transport: Transport::Tcp(connection), remote, local };
    let (mut reader, writer) = stream.into_split();
    let reason = tokio::select! {
        reason = read(&worker, client, &mut reader) => reason,
        () = write(writer, &outbox) => None,
    };
    if let Some(reason) = reason {
        refused.inc(reason);
    }
    let mut worker = worker.borrow_mut();
    worker.remove_connection(connection);
    worker.batch(|batch| batch.handle(Input::ClientGone { client }));
    drop(pass);
}

/// Reads until the connection ends: the reason, when it is we who end it.
async fn read(
    worker: &SharedWorker,
    client: ClientAddr,
    reader: &mut tokio::net::tcp::OwnedReadHalf,
) -> Option<&'static str> {
    let mut buffer = Vec::with_capacity(STRANGER_FRAME_BYTES_MAX);
    let mut useful = Instant::now();
    loop {
        let got = timeout(IDLE, reader.read_buf(&mut buffer)).await;
        if matches!(got, Ok(Ok(0) | Err(_))) {
            return None;
        }
        let mut frames_max = frame_bytes_max(worker, &client);
        loop {
            let taken = worker.borrow_mut().batch(|batch| {
                take_frames(&mut buffer, frames_max, |data| batch.handle(Input::FromClient { client, data }))
            });
            // What came with the Allocate request may be longer than what came before it.
            let allowed = frame_bytes_max(worker, &client);
            match taken {
                true => break,
                false if allowed > frames_max => frames_max = allowed,
                false => return Some("framing"),
            }
        }
        if worker.borrow().has_allocation(&client) {
            useful = Instant::now();
        } else if useful.elapsed() >= IDLE {
            return Some("idle");
        }
        tokio::task::yield_now().await;
    }
}

fn frame_bytes_max(worker: &SharedWorker, client: &ClientAddr) -> usize {
    if worker.borrow().has_allocation(client) { FRAME_BYTES_MAX } else { STRANGER_FRAME_BYTES_MAX }
}

async fn write(mut writer: OwnedWriteHalf, outbox: &Outbox) {
    let mut messages = Vec::new();
    loop {
        outbox.take(&mut messages).await;
        if writer.write_all(&messages).await.is_err() {
            return;
        }
    }
}

/// Takes whole frames off the front of the buffer; `false` when what is there cannot become one of at most `bytes_max`.
fn take_frames(buffer: &mut Vec<u8>, bytes_max: usize, mut on_frame: impl FnMut(&[u8])) -> bool {
    let mut at = 0;
    let sound = loop {
        match frame_bytes(&buffer[at..], bytes_max) {
            Frame::Whole(length) => {
                on_frame(&buffer[at..at + length]);
                at += length;
            }
            Frame::More => break true,
            Frame::Broken => break false,
        }
    };
    buffer.drain(..at);
    debug_assert!(!sound || buffer.len() < FRAME_BYTES_MAX);
    sound
}

#[derive(Debug, PartialEq, Eq)]
enum Frame {
    Whole(usize),
    More,
    Broken,
}

/// How long the frame at the start is. Both kinds have their length in bytes 2 and 3, and end at a multiple of 4.
fn frame_bytes(bytes: &[u8], bytes_max: usize) -> Frame {
    let Some(&[first, _, l0, l1]) = bytes.first_chunk() else { return Frame::More };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let total = match first >> 6 {
        0 if length % 4 == 0 => HEADER_BYTES + length,
        1 => channel_data::HEADER_BYTES + length.next_multiple_of(4),
        _ => return Frame::Broken,
    };
    if total > bytes_max {
        return Frame::Broken;
    }
    if bytes.len() < total { Frame::More } else { Frame::Whole(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_at_any_split() {
        let mut stream = vec![0x40, 1, 0, 3, b'a', b'b', b'c', 0];
        stream.extend_from_slice(&[0, 1, 0, 4]);
        stream.extend_from_slice(&[7; 20]);
        stream.extend_from_slice(&[0x40, 2, 0, 0]);
        for split in 0..stream.len() {
            let (mut buffer, mut frames) = (Vec::new(), Vec::new());
            for part in [&stream[..split], &stream[split..]] {
                buffer.extend_from_slice(part);
                assert!(take_frames(&mut buffer, FRAME_BYTES_MAX, |frame| frames.push(frame.len())));
            }
            assert_eq!((frames, buffer.len()), (vec![8, 24, 4], 0), "split at {split}");
        }
    }

    #[test]
    fn what_is_neither_stun_nor_channel_data_ends_the_stream() {
        for bytes in [&b"GET / HTTP"[1..1], b"\x80\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x01\x00\x03"] {
            let expected = if bytes.is_empty() { Frame::More } else { Frame::Broken };
            assert_eq!(frame_bytes(bytes, FRAME_BYTES_MAX), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_stranger_cannot_announce_a_long_frame() {
        let announced = [0, 1, 0xff, 0xfc];
        assert_eq!(frame_bytes(&announced, FRAME_BYTES_MAX), Frame::More);
        assert_eq!(frame_bytes(&announced, STRANGER_FRAME_BYTES_MAX), Frame::Broken);
    }
}
