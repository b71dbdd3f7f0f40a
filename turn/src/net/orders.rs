//! What a worker is told by others: by the operator, by our media, and by the relay's other workers.
//!
//! Datagrams come through a bounded queue, and what it has no room for is lost. Orders are few: each that a worker gives to
//! another belongs to a reservation or to a connection, which are bounded themselves, so that their queue needs no bound.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use common::handover::DatagramSink;
use common::metrics::{Counter, Registry};
use common::net::BatchSocket;
use tokio::sync::mpsc;

use super::tcp::{self, Admission, Guest};
use super::worker::SharedWorker;
use crate::auth::Credentials;
use crate::relay::{Input, Ledger, RelayedAddr, WorkerId};

/// Datagrams in memory on their way to a worker; what comes when it is full is lost and counted.
const DATAGRAMS_MAX: usize = 4096;
/// Of them, what is carried out before the sockets get their turn.
const DATAGRAM_BATCH: usize = 64;

pub(super) enum Order {
    /// No new allocations.
    Drain,
    /// Other credentials from now on.
    Credentials(Credentials),
    /// Give the socket of a redeemed reservation to that worker.
    HandOver { relayed: RelayedAddr, to: WorkerId },
    /// The answer; without the socket where it could not be had.
    TakeOver { relayed: RelayedAddr, socket: Option<BatchSocket> },
    /// A client's connection that belongs here.
    Welcome(Box<Guest>),
}

/// A datagram as if it had arrived at a relayed address.
pub(super) struct Datagram {
    from: SocketAddr,
    relayed: SocketAddr,
    payload: Vec<u8>,
}

/// What a worker receives. It outlives the worker, so that nothing is told to nobody.
pub(super) struct Mailbox {
    datagrams: mpsc::Receiver<Datagram>,
    orders: mpsc::UnboundedReceiver<Order>,
}

#[derive(Debug)]
struct Address {
    datagrams: mpsc::Sender<Datagram>,
    orders: mpsc::UnboundedSender<Order>,
}

/// The ways to all workers.
#[derive(Debug, Clone)]
pub(super) struct Post {
    addresses: Arc<[Address]>,
    dropped: Counter,
}

impl Post {
    pub(super) fn new(workers: usize, registry: &Registry) -> (Self, Vec<Mailbox>) {
        let help = "Datagrams from media and other workers that a relay worker's queue had no room for";
        let dropped = registry.counter("turn_media_queue_full", help);
        let pairs = (0..workers).map(|_| {
            let ((datagrams, datagrams_in), (orders, orders_in)) =
                (mpsc::channel(DATAGRAMS_MAX), mpsc::unbounded_channel());
            let mailbox = Mailbox { datagrams: datagrams_in, orders: orders_in };
            (Address { datagrams, orders }, mailbox)
        });
        let (addresses, mailboxes): (Vec<_>, Vec<_>) = pairs.unzip();
        (Self { addresses: addresses.into(), dropped }, mailboxes)
    }

    /// `false` when there is no such worker, or none any more.
    pub(super) fn order(&self, to: WorkerId, order: Order) -> bool {
        self.addresses.get(to.index()).is_some_and(|address| address.orders.send(order).is_ok())
    }

    /// Gives the same order to all.
    pub(super) fn order_all(&self, order: impl Fn() -> Order) -> bool {
        let told = self.addresses.iter().filter(|address| address.orders.send(order()).is_ok()).count();
        told == self.addresses.len()
    }

    /// `false` when the datagram is lost, which is counted.
    pub(super) fn deliver(
        &self,
        worker: WorkerId,
        from: SocketAddr,
        relayed: SocketAddr,
        payload: &[u8],
    ) -> bool {
        let datagram = Datagram { from, relayed, payload: payload.to_vec() };
        let address = self.addresses.get(worker.index());
        let taken = address.is_some_and(|address| address.datagrams.try_send(datagram).is_ok());
        if !taken {
            self.dropped.inc();
        }
        taken
    }
}

/// The way from our media to relayed addresses.
#[derive(Debug)]
pub(super) struct MediaSink {
    pub(super) post: Post,
    pub(super) ledger: Arc<Ledger>,
}

impl DatagramSink for MediaSink {
    fn deliver(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> bool {
        // One that nobody has is counted as such by the first worker.
        let worker = self.ledger.owner_of_address(to).unwrap_or(WorkerId(0));
        self.post.deliver(worker, from, to, payload)
    }
}

/// What every worker has been told and one that starts again needs to know.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    pub(super) draining: bool,
    /// When they are not those of the settings any more.
    pub(super) credentials: Option<Credentials>,
}

/// Shared by all workers and who orders them.
pub(super) type SharedStanding = Arc<Mutex<Standing>>;

pub(super) fn change_standing(standing: &SharedStanding, change: impl FnOnce(&mut Standing)) {
    change(&mut standing.lock().unwrap_or_else(PoisonError::into_inner));
}

pub(super) fn standing(standing: &SharedStanding) -> Standing {
    standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Does as it is told until there is nobody to tell it anything.
pub(super) async fn obey(
    worker: SharedWorker,
    mailbox: Rc<tokio::sync::Mutex<Mailbox>>,
    admission: Admission,
) {
    let mut mailbox = mailbox.lock().await; // nobody else has it: the worker before this one is gone
    let Mailbox { datagrams, orders } = &mut *mailbox;
    let mut waiting = Vec::with_capacity(DATAGRAM_BATCH);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => carry_out(&worker, order, &admission),
                None => return,
            },
            count = datagrams.recv_many(&mut waiting, DATAGRAM_BATCH) => {
                if count == 0 {
                    return;
                }
                worker.borrow_mut().batch(|batch| {
                    for Datagram { from, relayed, payload } in waiting.drain(..) {
                        batch.handle(Input::FromMedia { relayed, media: from, data: &payload });
                    }
                });
                tokio::task::yield_now().await;
            }
        }
    }
}

fn carry_out(worker: &SharedWorker, order: Order, admission: &Admission) {
    match order {
        Order::Drain => worker.borrow_mut().batch(|batch| batch.handle(Input::Drain)),
        Order::Credentials(credentials) => worker.borrow_mut().set_credentials(&credentials),
        Order::HandOver { relayed, to } => worker.borrow_mut().hand_over(relayed, to),
        Order::TakeOver { relayed, socket } => worker.borrow_mut().take_over(relayed, socket),
        Order::Welcome(guest) => {
            tokio::task::spawn_local(tcp::host(Rc::clone(worker), *guest, admission.clone()));
        }
    }
}
