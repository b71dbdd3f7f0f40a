//! What workers say to each other (`parcel`): one ring of bytes from each to each, with one writer and one reader.
//!
//! A worker that finds a ring full loses the parcel and counts it: the other one is overloaded, and waiting for it would make
//! everybody's packets late. The rings outlive a worker that starts again; what they still hold then comes to nothing.

use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};
use tokio::sync::Notify;

use crate::parcel::{self, LENGTH_BYTES};

/// Of one ring: a quarter of a second of 28 publishers at 1.2 Mb/s, and more than the longest data message.
const RING_BYTES_MAX: usize = 1 << 20;
/// Of one ring among very many workers: some packets.
const RING_BYTES_MIN: usize = 1 << 12;
/// Of all rings together, as addresses: what was never written to takes no memory.
const MESH_BYTES: usize = 1 << 30;
/// Parcels taken from one ring before the other inputs get their turn.
const TAKEN_PER_TURN: usize = 256;

/// One worker's ends.
pub(super) struct Rings {
    outgoing: Vec<Option<Outgoing>>,
    incoming: Vec<(usize, Consumer<u8>)>,
    /// Something has come.
    pub(super) news: Arc<Notify>,
    parcel: Vec<u8>,
    /// Parcels that a ring had no room for.
    pub(super) dropped: u64,
}

struct Outgoing {
    ring: Producer<u8>,
    news: Arc<Notify>,
}

impl Rings {
    /// Those of all workers, in the order of their numbers.
    pub(super) fn mesh(workers: usize) -> Vec<Self> {
        let ring_bytes = ring_bytes(workers);
        let news: Vec<Arc<Notify>> = (0..workers).map(|_| Arc::default()).collect();
        let mut mesh: Vec<Self> = news
            .iter()
            .map(|own| Self {
                outgoing: Vec::new(),
                incoming: Vec::new(),
                news: Arc::clone(own),
                parcel: Vec::new(),
                dropped: 0,
            })
            .collect();
        for from in 0..workers {
            for to in 0..workers {
                let between = (from != to).then(|| RingBuffer::new(ring_bytes));
                let (outgoing, incoming) = between.unzip();
                let outgoing = outgoing.map(|ring| Outgoing { ring, news: Arc::clone(&news[to]) });
                mesh[from].outgoing.push(outgoing);
                mesh[to].incoming.extend(incoming.map(|ring| (from, ring)));
            }
        }
        mesh
    }

    /// Says it to a worker.
    pub(super) fn send(&mut self, to: usize, parcels: &mut Vec<u8>) {
        let Some(Some(outgoing)) = self.outgoing.get_mut(to) else { return parcels.clear() };
        let mut rest = &parcels[..];
        while let Some((parcel, behind)) = parcel::first(rest) {
            if outgoing.ring.push_entire_slice(parcel).is_err() {
                self.dropped += 1;
            }
            rest = behind;
        }
        parcels.clear();
        outgoing.news.notify_one();
    }

    /// Hands over what has come: from whom, and one parcel without its length.
    pub(super) fn receive(&mut self, mut handle: impl FnMut(usize, &[u8])) {
        for (from, ring) in &mut self.incoming {
            let mut taken = 0;
            let mut length = [0; LENGTH_BYTES];
            // Parcels are put there whole.
            while taken < TAKEN_PER_TURN && ring.pop_entire_slice(&mut length).is_ok() {
                self.parcel.resize(u32::from_be_bytes(length) as usize, 0);
                if ring.pop_entire_slice(&mut self.parcel).is_err() {
                    break;
                }
                handle(*from, &self.parcel);
                taken += 1;
            }
            if taken == TAKEN_PER_TURN {
                self.news.notify_one();
            }
        }
    }
}

fn ring_bytes(workers: usize) -> usize {
    let rings = workers * workers.saturating_sub(1);
    MESH_BYTES.checked_div(rings).unwrap_or(0).clamp(RING_BYTES_MIN, RING_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use crate::parcel::Saying;

    use super::*;

    fn received(rings: &mut Rings) -> Vec<(usize, Vec<u8>)> {
        let mut all = Vec::new();
        rings.receive(|from, parcel| all.push((from, parcel.to_vec())));
        all
    }

    #[test]
    fn everybody_reaches_everybody_else() {
        let mut mesh = Rings::mesh(3);
        for (from, rings) in mesh.iter_mut().enumerate() {
            for to in 0..4 {
                let mut parcels = Vec::new();
                parcel::write(&mut parcels, (10 * from + to) as u64, &Saying::Keyframe { encoding: 0 });
                rings.send(to, &mut parcels);
                assert!(parcels.is_empty());
            }
        }
        for (to, rings) in mesh.iter_mut().enumerate() {
            let said: Vec<(usize, u64)> = received(rings)
                .iter()
                .map(|(from, parcel)| (*from, parcel::read(parcel).expect("a parcel").0))
                .collect();
            let expected = (0..3).filter(|from| *from != to).map(|from| (from, (10 * from + to) as u64));
            assert_eq!(said, expected.collect::<Vec<_>>());
            assert!(received(rings).is_empty());
        }
    }

    #[test]
    fn many_workers_have_small_rings() {
        assert_eq!([2, 32, 1024].map(ring_bytes), [RING_BYTES_MAX, RING_BYTES_MAX, RING_BYTES_MIN]);
        assert!((60_000..70_000).contains(&ring_bytes(128)));
        assert!(Rings::mesh(1)[0].incoming.is_empty());
    }

    #[test]
    fn a_full_ring_loses_whole_parcels_and_counts_them() {
        let [mut one, mut other] = Rings::mesh(2).try_into().map_err(|_| ()).expect("two of them");
        let data = [7; 100_000];
        let mut parcels = Vec::new();
        for _ in 0..20 {
            parcel::write(&mut parcels, 1, &Saying::Message { binary: true, data: &data });
        }
        one.send(1, &mut parcels);
        let said = received(&mut other);
        assert_eq!((said.len(), one.dropped), (10, 10));
        let whole = (1, Saying::Message { binary: true, data: &data[..] });
        assert!(said.iter().all(|(_, parcel)| parcel::read(parcel) == Some(whole)));
    }

    #[test]
    fn much_is_taken_in_turns() {
        let [mut one, mut other] = Rings::mesh(2).try_into().map_err(|_| ()).expect("two of them");
        let mut parcels = Vec::new();
        for _ in 0..TAKEN_PER_TURN + 1 {
            parcel::write(&mut parcels, 1, &Saying::Score { encoding: 0, score: 9 });
        }
        one.send(1, &mut parcels);
        assert_eq!([(); 3].map(|()| received(&mut other).len()), [TAKEN_PER_TURN, 1, 0]);
    }
}
