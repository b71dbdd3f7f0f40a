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
use crate::framing::{FRAME_BYTES_MAX, STRANGER_FRAME_BYTES_MAX, take_frames_while};
use crate::relay::{ClientAddr, ConnectionId, Input, Transport, WorkerId};

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
    let stream = match opened {
        Ok(Opened::Plain(_)) if !admission.plain => return admission.refused.inc("switched-off"),
        Ok(stream) => stream,
        Err(_) => return admission.refused.inc("tls"),
    };
    admission.accepted.inc(match &stream {
        Opened::Plain(_) => "tcp",
        Opened::Secure(_) => "tls",
    });
    let (at, received) = ((remote, local), Vec::with_capacity(STRANGER_FRAME_BYTES_MAX));
    host(worker, Guest { stream, at, received, useful: Instant::now(), pass }, admission).await;
}

/// A client's connection, on its way between workers too.
pub(super) struct Guest {
    stream: Opened,
    /// The client's address and ours.
    at: (SocketAddr, SocketAddr),
    /// What has been received and not been handled.
    received: Vec<u8>,
    /// When it was seen to be of use.
    useful: Instant,
    pass: Pass,
}

/// Lets a client talk until its connection ends, here or at the worker that it belongs to.
pub(super) async fn host(worker: SharedWorker, guest: Guest, admission: Admission) {
    let Guest { stream, at, mut received, useful, pass } = guest;
    let reason = match stream {
        Opened::Plain(stream) => {
            let (mut reader, mut writer) = stream.into_split();
            let halves = (&mut reader, &mut writer);
            match serve(&worker, halves, Transport::Tcp, at, &mut received, useful).await {
                Served::Ended(reason) => reason,
                Served::Leaves(home) => {
                    if let Ok(stream) = reader.reunite(writer) {
                        let stream = Opened::Plain(stream);
                        worker.borrow().send_home(home, Guest { stream, at, received, useful, pass });
                    }
                    return;
                }
            }
        }
        Opened::Secure(stream) => {
            let (mut reader, mut writer) = tokio::io::split(*stream);
            let halves = (&mut reader, &mut writer);
            match serve(&worker, halves, Transport::Tls, at, &mut received, useful).await {
                Served::Ended(reason) => reason,
                Served::Leaves(home) => {
                    let stream = Opened::Secure(Box::new(reader.unsplit(writer)));
                    return worker.borrow().send_home(home, Guest { stream, at, received, useful, pass });
                }
            }
        }
    };
    if let Some(reason) = reason {
        admission.refused.inc(reason);
    }
    drop(pass);
}

/// What has become of a connection that was served.
enum Served {
    /// It has ended. The reason, when it is we who ended it.
    Ended(Option<&'static str>),
    /// It belongs to another worker.
    Leaves(WorkerId),
}

/// Lets a client talk until its connection ends or leaves.
async fn serve(
    worker: &SharedWorker,
    (mut reader, mut writer): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    transport: fn(ConnectionId) -> Transport,
    (remote, local): (SocketAddr, SocketAddr),
    received: &mut Vec<u8>,
    useful: Instant,
) -> Served {
    let outbox = Rc::new(Outbox::default());
    let connection = worker.borrow_mut().add_connection(Rc::clone(&outbox));
    let client = ClientAddr { transport: transport(connection), remote, local };
    let end = {
        let mut writing = pin!(write(&mut writer, &outbox));
        let end = tokio::select! {
            end = read(worker, client, &mut reader, received, useful) => end,
            () = &mut writing => End::Closed(None),
        };
        if let End::Spliced(_) | End::Leaves(_) = end {
            // The answer to ConnectionBind goes out before what the peer has sent.
            outbox.finish();
            let _ = timeout(IDLE, writing).await; // who reads nothing gets nothing
        }
        end
    };
    let served = match end {
        End::Closed(reason) => Served::Ended(reason),
        End::Leaves(home) => Served::Leaves(home),
        End::Spliced(splice) => {
            let (peer, metrics) = (splice.connection, worker.borrow().metrics());
            splice.carry(reader, writer, received, (&metrics, client.transport)).await;
            peers::ended(worker, peer);
            Served::Ended(None)
        }
    };
    let mut worker = worker.borrow_mut();
    worker.remove_connection(connection);
    worker.batch(|batch| batch.handle(Input::ClientGone { client }));
    served
}

/// What becomes of a connection.
enum End {
    /// Nothing. The reason, when it is we who end it.
    Closed(Option<&'static str>),
    /// It carries a peer's bytes.
    Spliced(Splice),
    /// It goes to another worker.
    Leaves(WorkerId),
}

/// Reads messages until there will be no more.
async fn read(
    worker: &SharedWorker,
    client: ClientAddr,
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    mut useful: Instant,
) -> End {
    // What another worker has received comes first.
    let mut has_some = !buffer.is_empty();
    loop {
        if !std::mem::take(&mut has_some) {
            let got = timeout(IDLE, reader.read_buf(buffer)).await;
            if matches!(got, Ok(Ok(0) | Err(_))) {
                return End::Closed(None);
            }
        }
        let mut frames_max = frame_bytes_max(worker, &client);
        loop {
            let mut home = None;
            let taken = worker.borrow_mut().batch(|batch| {
                take_frames_while(buffer, frames_max, |data| {
                    home = batch.home_of(&client, data);
                    if home.is_none() {
                        batch.handle(Input::FromClient { client, data });
                    }
                    home.is_none()
                })
            });
            if let Some(home) = home {
                return End::Leaves(home);
            }
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
