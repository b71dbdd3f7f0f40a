//! UDP in: batches from the listeners and from the relay sockets to the worker, and ICMP about what relay sockets sent.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};

use common::net::{BatchSocket, IcmpError, RecvBatch};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

use super::worker::{SharedWorker, Worker};
use crate::relay::{ClientAddr, Icmp, Input, RelayedAddr, Transport};

/// ICMP errors that are told before datagrams get their turn.
const ICMP_ERRORS_MAX: usize = 64;

/// A socket that tokio watches for datagrams.
pub(super) struct Readable(AsyncFd<BatchSocket>);

impl Readable {
    #[expect(
        deprecated,
        reason = "the successor is unsafe; a BatchSocket owns one descriptor and never changes it"
    )]
    pub(super) fn new(socket: BatchSocket) -> io::Result<Self> {
        AsyncFd::with_interest(socket, Interest::READABLE | Interest::ERROR).map(Self)
    }

    pub(super) fn socket(&self) -> &BatchSocket {
        self.0.get_ref()
    }

    /// Waits for datagrams; `false` when the socket is of no use any more.
    pub(super) async fn wait(&self) -> bool {
        self.0.readable().await.is_ok()
    }

    /// Waits for datagrams or ICMP errors, which are told at once; `false` when the socket is of no use any more.
    async fn wait_and_tell(&self, tell: impl Fn(IcmpError)) -> bool {
        let Ok(mut guard) = self.0.ready(Interest::READABLE | Interest::ERROR).await else { return false };
        if guard.ready().is_error() {
            std::iter::from_fn(|| self.socket().icmp_error()).take(ICMP_ERRORS_MAX).for_each(tell);
            // What has come since is noticed all the same; what is left comes with the next one.
            guard.clear_ready_matching(Ready::ERROR);
        }
        true
    }

    /// Receives a batch; `false` when nothing was there. After one that is not full the next wait is for what comes then:
    /// asking an empty socket again would be a call into the kernel for every datagram that comes alone.
    pub(super) fn recv(&self, batch: &mut RecvBatch) -> bool {
        let mut count = 0;
        let drained: io::Result<()> = self.0.try_io(Interest::READABLE, |socket| {
            count = socket.recv(batch)?;
            if batch.is_full() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        drop(drained);
        count > 0
    }
}

/// Datagrams of clients.
pub(super) async fn listen(worker: SharedWorker, listener: Rc<Readable>) {
    let mut received = RecvBatch::new();
    let bound = listener.socket().local_addr();
    while listener.wait().await {
        if listener.recv(&mut received) {
            worker.borrow_mut().batch(|batch| {
                for datagram in received.datagrams() {
                    let local = SocketAddr::new(datagram.local_ip.unwrap_or(bound.ip()), bound.port());
                    let client = ClientAddr { transport: Transport::Udp, remote: datagram.remote, local };
                    batch.receive(client, datagram.payload);
                }
            });
        }
        if received.is_full() {
            tokio::task::yield_now().await;
        }
    }
}

/// Datagrams of peers at one relay socket, until the worker closes it. All relay sockets receive into one batch.
pub(super) async fn relay(
    worker: Weak<RefCell<Worker>>,
    socket: Rc<Readable>,
    relayed: RelayedAddr,
    received: Rc<RefCell<RecvBatch>>,
) {
    if let Err(error) = socket.socket().collect_icmp_errors() {
        tracing::debug!(%error, "clients will not be told of ICMP errors");
    }
    let tell = |error: IcmpError| {
        let IcmpError { destination, kind, code, mtu } = error;
        let input = Input::Icmp { relayed, peer: destination, icmp: Icmp { kind, code, mtu } };
        if let Some(worker) = worker.upgrade() {
            worker.borrow_mut().batch(|batch| batch.handle(input));
        }
    };
    while socket.wait_and_tell(tell).await {
        let Some(worker) = worker.upgrade() else { return };
        let may_have_more = carry(&worker, &socket, relayed, &mut received.borrow_mut());
        drop(worker);
        if may_have_more {
            tokio::task::yield_now().await;
        }
    }
}

/// Carries one batch to the client; `true` when more may be waiting.
fn carry(worker: &SharedWorker, socket: &Readable, relayed: RelayedAddr, received: &mut RecvBatch) -> bool {
    if !socket.recv(received) {
        return false;
    }
    let is_full = received.is_full();
    worker.borrow_mut().batch(|batch| {
        for datagram in received.datagrams() {
            batch.handle(Input::FromPeer { relayed, peer: datagram.remote, data: datagram.payload });
        }
    });
    is_full
}
