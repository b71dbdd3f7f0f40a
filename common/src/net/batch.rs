//! What a [`BatchSocket`](super::BatchSocket) receives into and sends from, allocated once and used for ever.
//!
//! [`RecvBatch`] has fixed slots; the kernel may put several datagrams of one sender into one slot (UDP_GRO), and they are
//! handed out one by one, in place and writable. [`TransmitArena`] is filled datagram by datagram, each written where it
//! will be sent from; neighbours with one destination and one length become a run, which the kernel cuts up (UDP_SEGMENT).

use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};

use quinn_udp::{BATCH_SIZE, RecvMeta};

/// The largest UDP payload, and the largest GRO read, fit.
const SLOT_BYTES: usize = 65_536;

/// Datagrams in one run (`UDP_MAX_SEGMENTS`, linux/udp.h).
const RUN_SEGMENTS_MAX: usize = 64;

/// Larger datagrams travel alone. A run whose segments exceed the path's MTU is EINVAL for Linux (`udp_send_skb`), which
/// quinn-udp takes for a device without segmentation and turns it off for good: a remote end must not be able to cause
/// that. Fits an MTU of 1400; our own media packets are smaller.
const RUN_SEGMENT_BYTES_MAX: usize = 1400 - 40 - 8;

/// Bytes in one run: a UDP payload under an IPv4 header with options.
const RUN_BYTES_MAX: usize = 65_535 - 60 - 8;

/// So many slots are offered while datagrams come one by one: each costs the time of preparing it for the kernel, used or not.
const FEW: usize = 2;

/// So many receptions in a row must leave slots free before fewer are offered.
const CALM: u8 = 16;

/// Slots for one call of `recvmmsg`.
pub struct RecvBatch {
    storage: Box<[u8]>,
    meta: [RecvMeta; BATCH_SIZE],
    filled: usize,
    /// Slots that the last call offered.
    offered: usize,
    /// Calls in a row that would have done with few.
    calm: u8,
}

/// One datagram of a [`RecvBatch`].
pub struct RecvDatagram<'a> {
    /// Who sent it.
    pub remote: SocketAddr,
    /// The address it was sent to; an answer leaves from there.
    pub local_ip: Option<IpAddr>,
    /// The payload, in the batch's own memory: it may be decrypted in place.
    pub payload: &'a mut [u8],
}

impl RecvBatch {
    /// An empty batch. Of its memory only what datagrams have touched is resident.
    pub fn new() -> Self {
        Self {
            storage: vec![0; BATCH_SIZE * SLOT_BYTES].into_boxed_slice(),
            meta: [RecvMeta::default(); BATCH_SIZE],
            filled: 0,
            offered: BATCH_SIZE,
            calm: 0,
        }
    }

    /// The received datagrams, in the order of arrival.
    pub fn datagrams(&mut self) -> impl Iterator<Item = RecvDatagram<'_>> {
        let slots = self.storage.chunks_exact_mut(SLOT_BYTES).zip(&self.meta[..self.filled]);
        slots.flat_map(|(slot, meta)| {
            let payloads = slot[..meta.len].chunks_mut(meta.stride.max(1));
            payloads.map(|payload| RecvDatagram { remote: meta.addr, local_ip: meta.dst_ip, payload })
        })
    }

    /// How many datagrams [`datagrams`](Self::datagrams) will give. Empty ones are not among them.
    pub fn len(&self) -> usize {
        self.meta[..self.filled].iter().map(|meta| meta.len.div_ceil(meta.stride.max(1))).sum()
    }

    /// Whether nothing was received.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether more may be waiting: every slot was filled. Otherwise the socket had nothing more to give.
    pub fn is_full(&self) -> bool {
        self.filled == self.offered
    }

    /// Lets `receive` fill the slots.
    pub(super) fn fill(
        &mut self,
        receive: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> std::io::Result<usize>,
    ) -> std::io::Result<()> {
        self.filled = 0;
        self.filled =
            if self.calm < CALM { self.offer::<BATCH_SIZE>(receive) } else { self.offer::<FEW>(receive) }?;
        self.calm = if self.filled < FEW { self.calm.saturating_add(1) } else { 0 };
        Ok(())
    }

    fn offer<const SLOTS: usize>(
        &mut self,
        receive: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> std::io::Result<usize>,
    ) -> std::io::Result<usize> {
        self.offered = SLOTS;
        let mut slots = self.storage.chunks_exact_mut(SLOT_BYTES);
        let mut slices: [IoSliceMut<'_>; SLOTS] = std::array::from_fn(|_| {
            IoSliceMut::new(slots.next().expect("the storage has a slot per message"))
        });
        receive(&mut slices, &mut self.meta[..SLOTS])
    }

    /// Replaces the local address that the kernel reported.
    pub(super) fn set_local_ip(&mut self, ip: IpAddr) {
        for meta in &mut self.meta[..self.filled] {
            meta.dst_ip = Some(ip);
        }
    }
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
    }
}

/// Datagrams that wait to be sent, in one piece of memory.
///
/// When it is full the datagram is the caller's to drop and count, or the arena's to be sent first.
pub struct TransmitArena {
    bytes: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
    runs_max: usize,
    /// The first run that has not been sent completely.
    next: usize,
}

/// Neighbouring datagrams with one destination: all `segment` bytes long, the last one perhaps shorter.
pub(super) struct Run {
    pub(super) destination: SocketAddr,
    pub(super) source_ip: Option<IpAddr>,
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) segment: usize,
}

impl Run {
    fn takes(&self, len: usize, destination: SocketAddr, source_ip: Option<IpAddr>) -> bool {
        self.destination == destination
            && self.source_ip == source_ip
            && (1..=self.segment).contains(&len)
            && self.segment <= RUN_SEGMENT_BYTES_MAX
            && self.len.is_multiple_of(self.segment) // a shorter one was the last
            && self.len < self.segment * RUN_SEGMENTS_MAX
            && self.len + len <= RUN_BYTES_MAX
    }
}

impl TransmitArena {
    /// Room for `bytes_max` bytes in at most `datagrams_max` datagrams.
    pub fn new(bytes_max: usize, datagrams_max: usize) -> Self {
        Self {
            bytes: vec![0; bytes_max].into_boxed_slice(),
            used: 0,
            runs: Vec::with_capacity(datagrams_max),
            runs_max: datagrams_max,
            next: 0,
        }
    }

    /// The next `len` bytes, to write a datagram into before it is [committed](Self::commit). `None` when the arena is full.
    pub fn space(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.runs.len() >= self.runs_max {
            return None;
        }
        self.bytes.get_mut(self.used..self.used.checked_add(len)?)
    }

    /// Makes the first `len` bytes of the last [`space`](Self::space) a datagram. `source_ip` is the local address that it
    /// leaves from, on a socket that has several.
    pub fn commit(&mut self, len: usize, destination: SocketAddr, source_ip: Option<IpAddr>) {
        let start = self.used;
        self.used += len;
        assert!(self.used <= self.bytes.len(), "commit follows space");
        match self.runs.last_mut() {
            Some(run) if run.takes(len, destination, source_ip) => run.len += len,
            _ => self.runs.push(Run { destination, source_ip, start, len, segment: len }),
        }
    }

    /// Copies a datagram in. `false` when the arena is full.
    pub fn push(&mut self, payload: &[u8], destination: SocketAddr, source_ip: Option<IpAddr>) -> bool {
        let Some(space) = self.space(payload.len()) else { return false };
        space.copy_from_slice(payload);
        self.commit(payload.len(), destination, source_ip);
        true
    }

    /// Whether everything has been sent.
    pub fn is_empty(&self) -> bool {
        self.next == self.runs.len()
    }

    /// How many datagrams have not been sent.
    pub fn len(&self) -> usize {
        self.runs[self.next..].iter().map(|run| run.len.div_ceil(run.segment.max(1)).max(1)).sum()
    }

    /// Forgets everything, sent or not.
    pub fn clear(&mut self) {
        self.used = 0;
        self.next = 0;
        self.runs.clear();
    }

    /// The run to send from next, and the bytes that runs point into.
    pub(super) fn front(&self) -> Option<(&Run, &[u8])> {
        self.runs.get(self.next).map(|run| (run, &self.bytes[run.start..run.start + run.len]))
    }

    /// Takes `len` bytes off the front run; an arena whose last run is gone begins anew.
    pub(super) fn advance(&mut self, len: usize) {
        let run = &mut self.runs[self.next];
        run.start += len;
        run.len -= len;
        if run.len == 0 {
            self.next += 1;
        }
        if self.is_empty() {
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn few_slots_are_offered_while_datagrams_come_alone() {
        let mut batch = RecvBatch::new();
        let mut offered = |come: usize| {
            let mut slots = 0;
            let received = batch.fill(|slices, meta| {
                assert_eq!(slices.len(), meta.len());
                slots = slices.len();
                Ok(come.min(slots))
            });
            assert!(received.is_ok());
            (slots, batch.is_full())
        };
        for _ in 0..CALM {
            assert_eq!(offered(1), (BATCH_SIZE, false));
        }
        assert_eq!(offered(1), (FEW, false));
        assert_eq!(offered(9), (FEW, true), "more may be waiting");
        assert_eq!(offered(7), (BATCH_SIZE, false));
    }

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Lengths and destinations in, segments per run out.
    fn check(datagrams: &[(usize, u16)], expected: &[usize]) {
        let mut arena = TransmitArena::new(1 << 20, 256);
        for (len, port) in datagrams {
            assert!(arena.push(&vec![0; *len], to(*port), None));
        }
        let runs: Vec<usize> =
            arena.runs.iter().map(|run| run.len.div_ceil(run.segment.max(1)).max(1)).collect();
        assert_eq!(runs, expected, "{datagrams:?}");
        assert_eq!(arena.len(), datagrams.len());
    }

    #[test]
    fn equal_neighbours_become_a_run() {
        check(&[(10, 1), (10, 1), (10, 1)], &[3]);
        check(&[(10, 1), (10, 2), (10, 1)], &[1, 1, 1]);
        check(&[(10, 1), (5, 1), (5, 1)], &[2, 1]);
        check(&[(5, 1), (10, 1)], &[1, 1]);
        check(&[(0, 1), (0, 1), (10, 1)], &[1, 1, 1]);
        check(&[(10, 1), (0, 1)], &[1, 1]);
        check(&[(1, 1); 130], &[64, 64, 2]);
        check(&[(1300, 1); 60], &[50, 10]);
        check(&[(1400, 1), (1400, 1)], &[1, 1]);
    }

    #[test]
    fn source_addresses_are_not_mixed() {
        let mut arena = TransmitArena::new(100, 10);
        assert!(arena.push(b"a", to(1), None));
        assert!(arena.push(b"b", to(1), Some([127, 0, 0, 1].into())));
        assert_eq!(arena.runs.len(), 2);
    }

    #[test]
    fn a_full_arena_takes_no_more() {
        let mut arena = TransmitArena::new(10, 2);
        assert!(!arena.push(&[0; 11], to(1), None));
        assert!(arena.push(&[0; 9], to(1), None));
        assert!(!arena.push(&[0; 2], to(1), None));
        assert!(arena.push(&[0; 1], to(2), None));
        assert!(!arena.push(&[], to(3), None), "no more than two");
        assert!(arena.space(usize::MAX).is_none());
        arena.clear();
        assert!(arena.is_empty() && arena.push(&[0; 10], to(1), None));
    }

    proptest! {
        /// Whatever is put in comes out again: the same bytes to the same places in the same order.
        #[test]
        fn runs_lose_nothing(datagrams in prop::collection::vec((0usize..5, 1u16..3), 0..100), gso in 1usize..5) {
            let mut arena = TransmitArena::new(1000, 100);
            for (i, (len, port)) in datagrams.iter().enumerate() {
                prop_assert!(arena.push(&vec![i as u8; *len], to(*port), None));
            }
            let mut out = Vec::new();
            while let Some((run, bytes)) = arena.front() {
                let take = bytes.len().min(run.segment * gso);
                match run.segment {
                    0 => out.push((Vec::new(), run.destination)),
                    segment => out.extend(bytes[..take].chunks(segment).map(|chunk| (chunk.to_vec(), run.destination))),
                }
                arena.advance(take);
            }
            let expected: Vec<_> =
                datagrams.iter().enumerate().map(|(i, (len, port))| (vec![i as u8; *len], to(*port))).collect();
            prop_assert_eq!(out, expected);
            prop_assert_eq!(arena.used, 0);
        }
    }
}
