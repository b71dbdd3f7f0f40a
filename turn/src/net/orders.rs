//! What a running relay is told from outside of its thread.

use tokio::sync::mpsc;

use super::worker::SharedWorker;
use crate::auth::Credentials;
use crate::relay::Input;

/// Orders that wait for the relay's thread; operators give them one at a time, and the caller is told of a full queue.
pub(super) const ORDERS_MAX: usize = 16;

pub(super) enum Order {
    /// No new allocations.
    Drain,
    /// Other credentials from now on.
    Credentials(Credentials),
}

pub(super) async fn obey(worker: SharedWorker, mut orders: mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Drain => worker.borrow_mut().batch(|batch| batch.handle(Input::Drain)),
            Order::Credentials(credentials) => worker.borrow_mut().set_credentials(&credentials),
        }
    }
}
