//! What must hold at every step, and the small models that say so.

mod numbering;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::call_record::CallRecord;
use turn::relay::RelayedAddr;

use crate::node::RING_TIMEOUT;

pub use numbering::Consumers;

/// A broken promise: which oracle saw it, and what it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The oracle's name, as in `MUTATIONS.md`.
    pub oracle: &'static str,
    /// For people.
    pub what: String,
}

/// The promise holds, or it does not.
pub type Verdict = Result<(), Violation>;

/// Says that an oracle's promise is broken.
pub fn broken<T>(oracle: &'static str, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { oracle, what: what.into() })
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// `nonce`: a key, SSRC and packet index are never used twice for sending (RFC 3711 §9.1; with GCM it gives the key away).
/// A datagram that is sent again unchanged is no second use.
#[derive(Debug, Default)]
pub struct Nonces {
    /// A consumer's SSRC is random and belongs to one key.
    rtp: BTreeMap<u32, (u64, BTreeMap<u64, u64>)>,
    rtcp: BTreeMap<(SocketAddr, u32), u64>,
}

impl Nonces {
    /// Looks at a datagram that the SFU sends; `to` is the far end's own address, where it is known.
    pub fn sent(&mut self, to: Option<SocketAddr>, datagram: &[u8]) -> Verdict {
        if !matches!(datagram.first(), Some(128..=191)) || datagram.len() < 16 {
            return Ok(());
        }
        if media::rtp::is_rtcp(datagram) {
            return to.map_or(Ok(()), |to| self.sent_rtcp(to, datagram));
        }
        let ssrc = u32::from_be_bytes([datagram[8], datagram[9], datagram[10], datagram[11]]);
        let wire = u16::from_be_bytes([datagram[2], datagram[3]]);
        let (newest, seen) =
            self.rtp.entry(ssrc).or_insert_with(|| (u64::from(wire) + (1 << 16), BTreeMap::new()));
        let step = wire.wrapping_sub(*newest as u16) as i16;
        let index = newest.wrapping_add_signed(i64::from(step));
        *newest = (*newest).max(index);
        let digest = digest(datagram);
        match seen.insert(index, digest) {
            Some(before) if before != digest => {
                broken("nonce", format!("SSRC {ssrc:#x} index {index} was sealed twice"))
            }
            _ => Ok(()),
        }
    }

    /// The far ends negotiate AEAD_AES_256_GCM: the index is the last word (RFC 7714 §9.2).
    fn sent_rtcp(&mut self, to: SocketAddr, datagram: &[u8]) -> Verdict {
        let at = datagram.len() - 4;
        let index = u32::from_be_bytes([datagram[at], datagram[at + 1], datagram[at + 2], datagram[at + 3]]);
        let digest = digest(datagram);
        match self.rtcp.insert((to, index), digest) {
            Some(before) if before != digest => {
                broken("nonce", format!("SRTCP index {index:#x} to {to} was sealed twice"))
            }
            _ => Ok(()),
        }
    }
}

/// RFC 8656 §9: a permission lasts so long.
const PERMISSION: Duration = Duration::from_secs(300);

/// `permission`: nothing is relayed without a live one.
#[derive(Debug, Default)]
pub struct Permissions {
    until: BTreeMap<(RelayedAddr, IpAddr), Duration>,
}

impl Permissions {
    /// The relay has told a client that it may.
    pub fn granted(&mut self, now: Duration, port: RelayedAddr, peer: IpAddr) {
        self.until.insert((port, peer), now + PERMISSION);
    }

    /// The relay lets a packet pass.
    pub fn passed(&self, now: Duration, port: RelayedAddr, peer: IpAddr) -> Verdict {
        match self.until.get(&(port, peer)) {
            Some(until) if now < *until => Ok(()),
            _ => broken("permission", format!("{port:?} and {peer} exchange packets without one")),
        }
    }

    /// An allocation is gone.
    pub fn closed(&mut self, port: RelayedAddr) {
        self.until.retain(|(known, _), _| *known != port);
    }
}

/// What 500 ppm make of a run, generously.
const TOLERANCE: Duration = Duration::from_secs(1);

/// `call-log`: every call that began has exactly one record when it is over.
#[derive(Debug, Default)]
pub struct CallLog {
    /// When, by the steady clock and by the wall's.
    begun: BTreeMap<String, (Duration, Duration)>,
    records: BTreeMap<String, u32>,
    record_ids: BTreeSet<String>,
}

impl CallLog {
    /// The hub has let somebody ring.
    pub fn begun(&mut self, call: &str, now: Duration, wall: Duration) {
        self.begun.entry(call.to_owned()).or_insert((now, wall));
    }

    /// A record was written.
    pub fn written(&mut self, now: Duration, record: &CallRecord) -> Verdict {
        *self.records.entry(record.call_id.as_str().to_owned()).or_default() += 1;
        if !self.record_ids.insert(record.record_id.clone()) {
            return broken("call-log", format!("record {} was written twice", record.record_id));
        }
        let lasted = record.ended_at.saturating_sub(record.started_at);
        if record.answered_at.is_none() && lasted > RING_TIMEOUT + Duration::from_secs(1) {
            return broken("call-log", format!("call {} rang for {lasted:?}", record.call_id));
        }
        if let Some((began, wall)) = self.begun.get(record.call_id.as_str()) {
            let steady = now.saturating_sub(*began);
            if steady.abs_diff(lasted) > TOLERANCE || wall.abs_diff(record.started_at) > TOLERANCE {
                let (started, id) = (record.started_at, &record.call_id);
                return broken(
                    "wall",
                    format!("{id} began at {wall:?} for {steady:?}, not at {started:?} for {lasted:?}"),
                );
            }
        }
        if record.ended_at < record.started_at {
            return broken("call-log", format!("call {} ended before it began", record.call_id));
        }
        Ok(())
    }

    /// How many calls have begun and have no record yet.
    pub fn unwritten(&self) -> usize {
        self.begun.keys().filter(|call| !self.records.contains_key(*call)).count()
    }

    /// All calls are over.
    pub fn complete(&self) -> Verdict {
        for call in self.begun.keys() {
            match self.records.get(call) {
                Some(1) => {}
                count => {
                    return broken("call-log", format!("call {call} has {} records", count.unwrap_or(&0)));
                }
            }
        }
        match self.records.keys().find(|call| !self.begun.contains_key(*call)) {
            Some(call) => broken("call-log", format!("call {call} was recorded and never began")),
            None => Ok(()),
        }
    }
}
