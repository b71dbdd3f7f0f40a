//! What waits to be written to one connection, bounded in messages and in bytes.
//!
//! The hub puts in and never waits; the connection's writer takes out. A client that reads too slowly fills it, and is
//! then closed: its session may resume, with the hub's own bounded store of undelivered messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Messages that may wait. Joining a room of 500 peers brings about as many notifications at once.
const MESSAGES_MAX: usize = 1024;

/// Bytes that may wait behind the first message: eight of the largest that a client may send.
const BYTES_MAX: usize = 2 * 1024 * 1024;

/// The hub's end.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: mpsc::Sender<Outgoing>,
    bytes: Arc<AtomicUsize>,
    overflow: CancellationToken,
}

/// The writer's end.
#[derive(Debug)]
pub(super) struct OutletReader {
    queue: mpsc::Receiver<Outgoing>,
    bytes: Arc<AtomicUsize>,
    overflow: CancellationToken,
}

/// One thing to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outgoing {
    Text(Arc<str>),
    Ping,
    Close { code: u16, reason: &'static str },
}

/// A new pair.
pub(super) fn outlet() -> (Outlet, OutletReader) {
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    let (bytes, overflow) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let reader = OutletReader { queue: receiver, bytes: Arc::clone(&bytes), overflow: overflow.clone() };
    (Outlet { queue: sender, bytes, overflow }, reader)
}

impl Outlet {
    pub(super) fn text(&self, text: Arc<str>) {
        let length = text.len();
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        // One message alone always fits, however long: what the server says is not bounded by what clients may say.
        if before > 0 && before + length > BYTES_MAX {
            self.overflow.cancel();
            return;
        }
        self.put(Outgoing::Text(text));
    }

    pub(super) fn ping(&self) {
        self.put(Outgoing::Ping);
    }

    pub(super) fn close(&self, code: u16, reason: &'static str) {
        self.put(Outgoing::Close { code, reason });
    }

    fn put(&self, outgoing: Outgoing) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(outgoing) {
            self.overflow.cancel();
        }
    }
}

impl OutletReader {
    /// The next to write; `None` when the hub has let go of the connection.
    pub(super) async fn next(&mut self) -> Option<Outgoing> {
        let outgoing = self.queue.recv().await;
        self.took(outgoing)
    }

    /// The next, if it is there already.
    pub(super) fn next_now(&mut self) -> Option<Outgoing> {
        let outgoing = self.queue.try_recv().ok();
        self.took(outgoing)
    }

    /// Fires when more waited than may.
    pub(super) fn overflow(&self) -> CancellationToken {
        self.overflow.clone()
    }

    fn took(&self, outgoing: Option<Outgoing>) -> Option<Outgoing> {
        if let Some(Outgoing::Text(text)) = &outgoing {
            self.bytes.fetch_sub(text.len(), Ordering::Relaxed);
        }
        outgoing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out_in_order() {
        let (outlet, mut reader) = outlet();
        outlet.text("a".into());
        outlet.ping();
        outlet.close(1012, "restart");
        assert_eq!(reader.next_now(), Some(Outgoing::Text("a".into())));
        assert_eq!(reader.next_now(), Some(Outgoing::Ping));
        assert_eq!(reader.next_now(), Some(Outgoing::Close { code: 1012, reason: "restart" }));
        assert_eq!(reader.next_now(), None);
        assert!(!reader.overflow().is_cancelled());
    }

    #[test]
    fn too_many_messages_or_bytes_overflow() {
        let (many, reader) = outlet();
        for _ in 0..=MESSAGES_MAX {
            many.ping();
        }
        assert!(reader.overflow().is_cancelled());

        let (long, mut reader) = outlet();
        long.text("x".repeat(BYTES_MAX + 1).into());
        assert!(!reader.overflow().is_cancelled());
        assert!(reader.next_now().is_some());
        long.text("x".repeat(BYTES_MAX).into());
        long.text("y".into());
        assert!(reader.overflow().is_cancelled());
    }
}
