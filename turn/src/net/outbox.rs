//! What waits to be written to one TCP client: whole messages, one behind the other, taken all at once.

use std::cell::{Cell, RefCell};

use tokio::sync::Notify;

/// Bytes that wait for a client that reads slowly; what comes when they are there is lost, as on a slow network.
/// Half a second at 4 Mbit/s.
const WAITING_BYTES_MAX: usize = 256 * 1024;
/// Memory that an emptied outbox keeps.
const KEPT_BYTES: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct Outbox {
    waiting: RefCell<Vec<u8>>,
    news: Notify,
    is_finished: Cell<bool>,
}

impl Outbox {
    /// Adds a whole message; `false` when there is no room for it.
    pub(super) fn push(&self, header: &[u8], payload: &[u8], padding: usize) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let length = waiting.len() + header.len() + payload.len() + padding;
        if length > WAITING_BYTES_MAX {
            return false;
        }
        waiting.extend_from_slice(header);
        waiting.extend_from_slice(payload);
        waiting.resize(length, 0);
        self.news.notify_one();
        true
    }

    /// Waits for messages and exchanges them for `written`, whose memory serves the next ones; `false` when there are none
    /// and none will come.
    pub(super) async fn take(&self, written: &mut Vec<u8>) -> bool {
        written.clear();
        written.shrink_to(KEPT_BYTES);
        while self.waiting.borrow().is_empty() {
            if self.is_finished.get() {
                return false;
            }
            self.news.notified().await;
        }
        std::mem::swap(&mut *self.waiting.borrow_mut(), written);
        true
    }

    /// What is here is the last.
    pub(super) fn finish(&self) {
        self.is_finished.set(true);
        self.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_wait_whole_and_in_order_up_to_the_bound() {
        let (outbox, mut taken) = (Outbox::default(), Vec::new());
        assert!(outbox.push(b"head", b"payload", 1) && outbox.push(b"", b"next", 0));
        outbox.take(&mut taken).await;
        assert_eq!(taken, b"headpayload\0next");
        assert!(outbox.push(b"", &vec![1; WAITING_BYTES_MAX - 4], 0));
        assert!(!outbox.push(b"h", b"four", 0), "not a part of it either");
        assert!(outbox.push(b"", b"four", 0));
        outbox.take(&mut taken).await;
        assert_eq!(taken.len(), WAITING_BYTES_MAX);
        assert!(outbox.push(b"", b"again", 0));
        outbox.finish();
        assert!(outbox.take(&mut taken).await, "what was there when it was finished");
        assert_eq!(taken, b"again");
        assert!(!outbox.take(&mut taken).await);
    }
}
