//! TCP and TLS in and out: STUN messages and ChannelData, which `framing` finds in the stream.
//!
//! A connection lives for as long as its allocation; before it has one it gets little time and little memory. `tls` is
//! between a connection that wants it and what is here.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use common::metrics::{Counters, Registry};
use common::net::{AcceptErrors, Gate, Pass};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::outbox::Outbox;
use super::peers::{self, Splice};
use super::tls::{Opened, Tls};
use super::worker::SharedWorker;
use crate::framing::{FRAME_BYTES_MAX, STRANGER_FRAME_BYTES_MAX, take_frames};
use crate::relay::{ClientAddr, ConnectionId, Input, Transport};

/// A connection that has no allocation after this long, or has lost it for this long, is closed: an Allocate request takes
/// two round trips.
const IDLE: Duration = Duration::from_secs(15);

/// Who is let in, and what is counted of the others.
#[derive(Clone)]
pub(super) struct Admission {
    gate: Arc<Gate>,
    tls: Option<Tls>,
    plain: bool,
    accepted: Counters,
    refused: Counters,
}

impl Admission {
    pub(super) fn new(gate: Arc<Gate>, tls: Option<Tls>, plain: bool, registry: &Registry) -> Self {
        let help = "TCP and TLS connections to the relay that were refused or cut off";
        let accepted = super::connections(registry);
        Self { gate, tls, plain, accepted, refused: registry.counters("turn_tcp_refused", help, "reason") }
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
                    tokio::task::spawn_local(admit(
                        Rc::clone(&worker),
                        stream,
                        remote,
                        pass,
                        admission.clone(),
                    ));
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

async fn admit(
    worker: SharedWorker,
    stream: TcpStream,
    remote: SocketAddr,
    pass: Pass,
    admission: Admission,
) {
    let Ok(local) = stream.local_addr() else { return };
    // A relayed packet that waits for its neighbours is late; without the option it still arrives.
    let _ = stream.set_nodelay(true);
    let opened = match &admission.tls {
        Some(tls) => tls.open(stream).await,
        None => Ok(Opened::Plain(stream)),
    };
    let reason = match opened {
        Ok(Opened::Plain(_)) if !admission.plain => Some("switched-off"),
        Ok(Opened::Plain(stream)) => {
            let (reader, writer) = stream.into_split();
            let at = (remote, local);
            serve(&worker, reader, writer, Transport::Tcp, at, &admission.accepted).await
        }
        Ok(Opened::Secure(stream)) => {
            let (reader, writer) = tokio::io::split(*stream);
            let at = (remote, local);
            serve(&worker, reader, writer, Transport::Tls, at, &admission.accepted).await
        }
        Err(_) => Some("tls"),
    };
    if let Some(reason) = reason {
        admission.refused.inc(reason);
    }
    drop(pass);
}

/// Lets a client talk until its connection ends: the reason, when it is we who end it.
async fn serve(
    worker: &SharedWorker,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    transport: fn(ConnectionId) -> Transport,
    (remote, local): (SocketAddr, SocketAddr),
    accepted: &Counters,
) -> Option<&'static str> {
    let outbox = Rc::new(Outbox::default());
    let connection = worker.borrow_mut().add_connection(Rc::clone(&outbox));
    let client = ClientAddr { transport: transport(connection), remote, local };
    accepted.inc(client.transport.as_str());
    let mut received = Vec::with_capacity(STRANGER_FRAME_BYTES_MAX);
    let end = {
        let mut writing = pin!(write(&mut writer, &outbox));
        let end = tokio::select! {
            end = read(worker, client, &mut reader, &mut received) => end,
            () = &mut writing => End::Closed(None),
        };
        if let End::Spliced(_) = end {
            // The answer to ConnectionBind goes out before what the peer has sent.
            outbox.finish();
            let _ = timeout(IDLE, writing).await; // who reads nothing gets nothing
        }
        end
    };
    let reason = match end {
        End::Closed(reason) => reason,
        End::Spliced(splice) => {
            let (peer, metrics) = (splice.connection, worker.borrow().metrics());
            splice.carry(reader, writer, &received, &metrics).await;
            peers::ended(worker, peer);
            None
        }
    };
    let mut worker = worker.borrow_mut();
    worker.remove_connection(connection);
    worker.batch(|batch| batch.handle(Input::ClientGone { client }));
    reason
}

/// What becomes of a connection.
enum End {
    /// Nothing. The reason, when it is we who end it.
    Closed(Option<&'static str>),
    /// It carries a peer's bytes.
    Spliced(Splice),
}

/// Reads messages until there will be no more.
async fn read(
    worker: &SharedWorker,
    client: ClientAddr,
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> End {
    let mut useful = Instant::now();
    loop {
        let got = timeout(IDLE, reader.read_buf(buffer)).await;
        if matches!(got, Ok(Ok(0) | Err(_))) {
            return End::Closed(None);
        }
        let mut frames_max = frame_bytes_max(worker, &client);
        loop {
            let taken = worker.borrow_mut().batch(|batch| {
                take_frames(buffer, frames_max, |data| batch.handle(Input::FromClient { client, data }))
            });
            if let Some(splice) = worker.borrow_mut().take_splice(&client) {
                return End::Spliced(splice);
            }
            // What came with the Allocate request may be longer than what came before it.
            let allowed = frame_bytes_max(worker, &client);
            match taken {
                true => break,
                false if allowed > frames_max => frames_max = allowed,
                false => return End::Closed(Some("framing")),
            }
        }
        if worker.borrow().has_allocation(&client) {
            useful = Instant::now();
        } else if useful.elapsed() >= IDLE {
            return End::Closed(Some("idle"));
        }
        tokio::task::yield_now().await;
    }
}

fn frame_bytes_max(worker: &SharedWorker, client: &ClientAddr) -> usize {
    if worker.borrow().has_allocation(client) { FRAME_BYTES_MAX } else { STRANGER_FRAME_BYTES_MAX }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), outbox: &Outbox) {
    let mut messages = Vec::new();
    while outbox.take(&mut messages).await {
        let written = async { writer.write_all(&messages).await.and(writer.flush().await) };
        if written.await.is_err() {
            return;
        }
    }
}
