//! Connections to peers of TCP allocations: listening, connecting, and carrying bytes between two of them (RFC 6062).
//!
//! The core says which; here they are kept until it says what becomes of them. A connection that waits for its client is
//! not read from, so what its peer sends meanwhile stays in the kernel's buffer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use common::metrics::Counter;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::AbortHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::worker::Worker;
use crate::metrics::Metrics;
use crate::relay::{ConnectionId, Input, PeerConnectionId, RelayedAddr, Transport};

/// Peers that the kernel keeps for a relay socket while we look at one.
const BACKLOG: i32 = 16;
/// After an accept that failed, as when no files are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that are carried at once, of each direction of a connection.
const CARRIED_BYTES: usize = 16 * 1024;

/// The connections of one worker.
#[derive(Default)]
pub(super) struct Peers {
    listening: HashMap<RelayedAddr, Task>,
    connections: HashMap<PeerConnectionId, Stage>,
    /// That of the input which is being handled.
    accepted: Option<TcpStream>,
    /// For clients' connections that are to carry a peer's bytes, until they notice.
    splices: HashMap<ConnectionId, Splice>,
}

enum Stage {
    Connecting(#[expect(dead_code, reason = "ends with this")] Task),
    Waiting(TcpStream),
    Spliced(#[expect(dead_code, reason = "ends with this")] DropGuard),
}

/// A task that ends when nobody has it.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A peer's connection, for a client's to carry its bytes.
pub(super) struct Splice {
    pub(super) connection: PeerConnectionId,
    stream: TcpStream,
    closed: CancellationToken,
}

impl Peers {
    pub(super) fn listen(
        &mut self,
        worker: &Weak<RefCell<Worker>>,
        relayed: RelayedAddr,
        bind: SocketAddr,
    ) -> io::Result<()> {
        let listener = TcpListener::from_std(listener(bind)?)?;
        let task = tokio::task::spawn_local(accept(Weak::clone(worker), listener, relayed));
        self.listening.insert(relayed, Task(task.abort_handle()));
        Ok(())
    }

    pub(super) fn stop_listening(&mut self, relayed: RelayedAddr) {
        self.listening.remove(&relayed);
    }

    pub(super) fn connect(
        &mut self,
        worker: &Weak<RefCell<Worker>>,
        connection: PeerConnectionId,
        bind: SocketAddr,
        to: SocketAddr,
    ) {
        let task = tokio::task::spawn_local(connect(Weak::clone(worker), connection, bind, to));
        self.connections.insert(connection, Stage::Connecting(Task(task.abort_handle())));
    }

    /// The connection that has just been offered gets its name.
    pub(super) fn keep(&mut self, connection: PeerConnectionId) {
        if let Some(stream) = self.accepted.take() {
            self.connections.insert(connection, Stage::Waiting(stream));
        }
    }

    /// The one that has just been offered is not wanted, unless it has been kept.
    pub(super) fn forget_accepted(&mut self) {
        self.accepted = None;
    }

    pub(super) fn splice(&mut self, client: ConnectionId, connection: PeerConnectionId) {
        let Some(Stage::Waiting(stream)) = self.connections.remove(&connection) else { return };
        let closed = CancellationToken::new();
        self.connections.insert(connection, Stage::Spliced(closed.clone().drop_guard()));
        self.splices.insert(client, Splice { connection, stream, closed });
    }

    /// What this client's connection is to carry from now on.
    pub(super) fn take_splice(&mut self, client: ConnectionId) -> Option<Splice> {
        self.splices.remove(&client)
    }

    pub(super) fn close(&mut self, connection: PeerConnectionId) {
        self.connections.remove(&connection);
    }
}

impl Splice {
    /// Carries bytes both ways until both sides have ended, one has failed, or the relay closes it. `first` was received from
    /// the client already.
    pub(super) async fn carry(
        self,
        mut reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
        first: &[u8],
        (metrics, client): (&Metrics, Transport),
    ) {
        let (mut from_peer, mut to_peer) = self.stream.into_split();
        let up = async {
            to_peer.write_all(first).await?;
            let bytes = &metrics.to_peers(client).bytes;
            bytes.inc_by(first.len() as u64);
            copy(&mut reader, &mut to_peer, bytes).await
        };
        let down = copy(&mut from_peer, &mut writer, &metrics.to_clients(client).bytes);
        let ended = tokio::select! {
            ended = async { tokio::try_join!(up, down) } => ended.map(drop),
            () = self.closed.cancelled() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a spliced connection broke");
        }
    }
}

/// Copies until the end, and says so to the other side.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    carried: &Counter,
) -> io::Result<()> {
    let mut buffer = vec![0; CARRIED_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
        carried.inc_by(count as u64);
    }
}

/// A port that is taken is refused here; only then is it opened to our own connections, which leave from it.
fn listener(bind: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(bind), Type::STREAM, Some(socket2::Protocol::TCP))?;
    if bind.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&bind.into())?;
    socket.listen(BACKLOG)?;
    socket.set_reuse_port(true)?;
    Ok(socket.into())
}

async fn accept(worker: Weak<RefCell<Worker>>, listener: TcpListener, relayed: RelayedAddr) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let _ = stream.set_nodelay(true); // what waits for its neighbours is late, but arrives
        let Some(worker) = worker.upgrade() else { return };
        let mut worker = worker.borrow_mut();
        worker.peers().accepted = Some(stream);
        worker.batch(|batch| batch.handle(Input::PeerAccepted { relayed, peer }));
    }
}

async fn connect(
    worker: Weak<RefCell<Worker>>,
    connection: PeerConnectionId,
    bind: SocketAddr,
    to: SocketAddr,
) {
    let connected = open(bind, to).await;
    let Some(worker) = worker.upgrade() else { return };
    let mut worker = worker.borrow_mut();
    let news = match connected {
        Ok(stream) => {
            worker.peers().connections.insert(connection, Stage::Waiting(stream));
            Input::PeerConnected { connection }
        }
        Err(error) => {
            tracing::debug!(%error, "a peer could not be connected to");
            worker.peers().close(connection);
            Input::PeerConnectFailed { connection }
        }
    };
    worker.batch(|batch| batch.handle(news));
}

async fn open(bind: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if bind.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?; // the relay socket listens there
    if bind.is_ipv6() {
        SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.bind(bind)?;
    let stream = socket.connect(to).await?;
    let _ = stream.set_nodelay(true); // what waits for its neighbours is late, but arrives
    Ok(stream)
}

/// Ends what a splice was, whoever has ended it.
pub(super) fn ended(worker: &Rc<RefCell<Worker>>, connection: PeerConnectionId) {
    let mut worker = worker.borrow_mut();
    worker.peers().close(connection);
    worker.batch(|batch| batch.handle(Input::PeerGone { connection }));
}
