//! The transmit arena: what a batch of input makes us send, appended here and flushed once by the shell.
//!
//! Bytes lie one datagram behind the other in one buffer that is reused, so that forwarding a packet allocates nothing.

use crate::ice::RemoteAddr;

#[derive(Debug, Clone, Copy)]
struct Entry {
    to: RemoteAddr,
    start: u32,
    end: u32,
}

/// Datagrams to send, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Outbox {
    /// Appends a datagram that `write` puts behind what is there. When it returns `false` nothing is sent.
    pub fn push_with(&mut self, to: RemoteAddr, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let start = self.bytes.len();
        let written = write(&mut self.bytes) && self.bytes.len() > start;
        if written {
            self.entries.push(Entry { to, start: start as u32, end: self.bytes.len() as u32 });
        } else {
            self.bytes.truncate(start);
        }
        written
    }

    /// Appends a datagram.
    pub fn push(&mut self, to: RemoteAddr, datagram: &[u8]) {
        self.push_with(to, |bytes| {
            bytes.extend_from_slice(datagram);
            true
        });
    }

    /// The datagrams.
    pub fn iter(&self) -> impl Iterator<Item = (RemoteAddr, &[u8])> {
        self.entries.iter().map(|entry| (entry.to, &self.bytes[entry.start as usize..entry.end as usize]))
    }

    /// Brings datagrams for one destination together; their order among each other stays.
    pub fn sort_by_destination(&mut self) {
        self.entries.sort_by_key(|entry| entry.to);
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that wait.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets everything that was sent; keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::ice::Via;

    #[test]
    fn datagrams_come_out_grouped_and_in_order() {
        let to = |port: u16| RemoteAddr { via: Via::Udp, addr: SocketAddr::from(([127, 0, 0, 1], port)) };
        let mut outbox = Outbox::default();
        outbox.push(to(2), b"a");
        outbox.push(to(1), b"b");
        outbox.push(to(2), b"c");
        assert!(!outbox.push_with(to(1), |_| false));
        outbox.sort_by_destination();
        let sent: Vec<(u16, &[u8])> = outbox.iter().map(|(to, bytes)| (to.addr.port(), bytes)).collect();
        assert_eq!(sent, [(1, &b"b"[..]), (2, b"a"), (2, b"c")]);
        outbox.clear();
        assert!(outbox.is_empty());
    }
}
