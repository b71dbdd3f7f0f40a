//! TCP in and out: STUN messages and ChannelData framed in a stream (RFC 8656 §12.5, RFC 8489 §6.2.2).

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::outbox::Outbox;
use super::worker::SharedWorker;
use crate::channel_data;
use crate::relay::{ClientAddr, Input, Transport};
use crate::stun::header::HEADER_BYTES;

/// Connections at once; more are closed at once.
pub(super) const CONNECTIONS_MAX: usize = 4096;
/// A connection that has no allocation after this long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// The largest frame: a STUN message.
const FRAME_BYTES_MAX: usize = HEADER_BYTES + u16::MAX as usize;
/// How long to wait when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn listen(worker: SharedWorker, listener: std::net::TcpListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a TCP listener could not be registered"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                tokio::task::spawn_local(serve(Rc::clone(&worker), stream, remote));
            }
            Err(error) => {
                tracing::warn!(%error, "TCP connections are not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(worker: SharedWorker, stream: TcpStream, remote: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    // A relayed packet that waits for its neighbours is late; without the option it still arrives.
    let _ = stream.set_nodelay(true);
    let outbox = Rc::new(Outbox::default());
    let Some(connection) = worker.borrow_mut().add_connection(Rc::clone(&outbox)) else { return };
    let client = ClientAddr { transport: Transport::Tcp(connection), remote, local };
    let (mut reader, writer) = stream.into_split();
    tokio::select! {
        () = read(&worker, client, &mut reader) => {}
        () = write(writer, &outbox) => {}
    }
    let mut worker = worker.borrow_mut();
    worker.remove_connection(connection);
    worker.batch(|batch| batch.handle(Input::ClientGone { client }));
}

async fn read(worker: &SharedWorker, client: ClientAddr, reader: &mut tokio::net::tcp::OwnedReadHalf) {
    let mut buffer = Vec::with_capacity(4096);
    let mut useful = Instant::now();
    loop {
        let got = timeout(IDLE, reader.read_buf(&mut buffer)).await;
        if matches!(got, Ok(Ok(0) | Err(_))) {
            return;
        }
        let whole = worker
            .borrow_mut()
            .batch(|batch| take_frames(&mut buffer, |data| batch.handle(Input::FromClient { client, data })));
        if !whole {
            return;
        }
        if worker.borrow().has_allocation(&client) {
            useful = Instant::now();
        } else if useful.elapsed() >= IDLE {
            return;
        }
        tokio::task::yield_now().await;
    }
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

/// Takes whole frames off the front of the buffer; `false` when what is there cannot become one.
fn take_frames(buffer: &mut Vec<u8>, mut on_frame: impl FnMut(&[u8])) -> bool {
    let mut at = 0;
    let sound = loop {
        match frame_bytes(&buffer[at..]) {
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
fn frame_bytes(bytes: &[u8]) -> Frame {
    let Some(&[first, _, l0, l1]) = bytes.first_chunk() else { return Frame::More };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let total = match first >> 6 {
        0 if length % 4 == 0 => HEADER_BYTES + length,
        1 => channel_data::HEADER_BYTES + length.next_multiple_of(4),
        _ => return Frame::Broken,
    };
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
                assert!(take_frames(&mut buffer, |frame| frames.push(frame.len())));
            }
            assert_eq!((frames, buffer.len()), (vec![8, 24, 4], 0), "split at {split}");
        }
    }

    #[test]
    fn what_is_neither_stun_nor_channel_data_ends_the_stream() {
        for bytes in [&b"GET / HTTP"[1..1], b"\x80\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x01\x00\x03"] {
            let expected = if bytes.is_empty() { Frame::More } else { Frame::Broken };
            assert_eq!(frame_bytes(bytes), expected, "{bytes:?}");
        }
    }
}
