//! What a subscriber counts: packets, gaps in the numbering of each source, and how long each was under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use media::srtp::OpenedRtp;
use tokio::sync::watch;

use super::Shared;
use super::leg::{CONSENT_EVERY, Datagram, Leg};

/// What one subscriber has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Packets that the numbering shows to be missing.
    pub lost: u64,
    /// Packets received.
    pub received: u64,
    /// From the publisher's send to here, of the packets in the window.
    pub delays_ns: Vec<u64>,
    sources: BTreeMap<u32, Numbers>,
}

/// The numbering of one source.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    first: u64,
    last: u64,
    count: u64,
}

impl Seen {
    fn count(&mut self, ssrc: u32, index: u64) {
        self.received += 1;
        let numbers = self.sources.entry(ssrc).or_insert(Numbers { first: index, last: index, count: 0 });
        numbers.first = numbers.first.min(index);
        numbers.last = numbers.last.max(index);
        numbers.count += 1;
    }

    /// Adds up the gaps. SRTP has refused every repetition.
    fn close(&mut self) {
        self.lost =
            self.sources.values().map(|numbers| numbers.last - numbers.first + 1 - numbers.count).sum();
    }
}

/// Receives until told to stop.
pub async fn subscribe(mut leg: Leg, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) -> Seen {
    let mut seen = Seen::default();
    let mut consent = Instant::now() + Duration::from_secs(1);
    let mut datagram = [0; 2048];
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => break,
            () = tokio::time::sleep_until(consent.into()) => {
                leg.consent().await;
                let _ = leg.poll().await;
                consent = Instant::now() + CONSENT_EVERY;
            }
            _ = leg.readable() => while let Some(length) = leg.try_recv(&mut datagram) {
                if let Some(Datagram::Rtp(opened)) = leg.take(&mut datagram[..length]) {
                    take(&mut seen, &shared, &datagram, opened);
                }
            }
        }
    }
    seen.close();
    seen
}

fn take(seen: &mut Seen, shared: &Shared, packet: &[u8], opened: OpenedRtp) {
    seen.count(opened.ssrc, opened.index);
    shared.received.fetch_add(1, Ordering::Relaxed);
    let payload = &packet[opened.header_len..opened.len];
    if let Some(moment) = payload.last_chunk::<8>().filter(|_| shared.measuring.load(Ordering::Relaxed)) {
        seen.delays_ns.push(shared.now_ns().saturating_sub(u64::from_be_bytes(*moment)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_losses_and_reordering_is_none() {
        let mut seen = Seen::default();
        for (ssrc, index) in [(1, 10), (1, 12), (1, 11), (1, 15), (2, 65_535), (2, 65_536)] {
            seen.count(ssrc, index);
        }
        seen.close();
        assert_eq!((seen.received, seen.lost), (6, 2));
    }
}
