//! An ICE-lite agent (RFC 8445 §2.7): answers checks, never sends any, remembers who passed.
//!
//! It is ours rather than str0m's because two sets of credentials must be valid at once during a restart, the client's
//! credentials are never signalled, and the tuples decide where the RTP plane sends. A few addresses per transport are
//! kept ([`TUPLES_MAX`]); an address is learned only after MESSAGE-INTEGRITY has passed with our own password. `stun`
//! reads and writes the messages, `transport` owns one of these.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use common::rtp_parameters::IceParameters;
use rand_core::RngCore;

use crate::stun::{self, BindingRequest};

/// mediasoup keeps as many; a client rarely shows more than three (contract §2.3).
pub const TUPLES_MAX: usize = 8;
/// No authenticated request for so long is a lost client (contract §2.3; RFC 7675 §5.1 says 30 s).
pub const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);
/// RFC 8445 §5.3 asks for 24 bits in the ufrag and 128 bits in the password; 32 letters of 6 bits are 192.
const PASSWORD_LETTERS: usize = 32;
const UFRAG_TAIL_LETTERS: usize = 8;
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// How a datagram came and how its answer must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// The worker's UDP socket.
    Udp,
    /// A TCP connection, by the number that the shell gave it.
    Tcp(u64),
    /// The TURN relay in this process.
    Relay,
}

/// The far end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RemoteAddr {
    /// The kind of path.
    pub via: Via,
    /// The address at its end.
    pub addr: SocketAddr,
}

/// Our half of the short-term credentials.
#[derive(Debug)]
struct Credentials {
    ufrag: String,
    password: String,
    key: hmac::Key,
}

impl Credentials {
    /// The ufrag starts with worker and slot in hexadecimal, so that a stateless balancer can steer by it.
    fn new(worker: u8, slot: u32, rng: &mut impl RngCore) -> Self {
        let password = letters(PASSWORD_LETTERS, rng);
        let ufrag = format!("{worker:02x}{slot:06x}{}", letters(UFRAG_TAIL_LETTERS, rng));
        Self { ufrag, key: stun::key(&password), password }
    }

    fn parameters(&self) -> IceParameters {
        IceParameters {
            username_fragment: self.ufrag.clone(),
            password: self.password.clone(),
            ice_lite: true,
        }
    }
}

fn letters(count: usize, rng: &mut impl RngCore) -> String {
    (0..count).map(|_| char::from(LETTERS[(rng.next_u32() % 64) as usize])).collect()
}

/// The worker and slot that a ufrag of ours names.
pub fn worker_and_slot(ufrag: &str) -> Option<(u8, u32)> {
    let worker = u8::from_str_radix(ufrag.get(..2)?, 16).ok()?;
    let slot = u32::from_str_radix(ufrag.get(2..8)?, 16).ok()?;
    Some((worker, slot))
}

/// What a request changed. The answer has been written either way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The request was valid.
    pub accepted: bool,
    /// An address that is new to this transport.
    pub learned: Option<RemoteAddr>,
    /// An address that made room for it.
    pub forgotten: Option<RemoteAddr>,
    /// The selected address is another than before.
    pub selected: bool,
}

#[derive(Debug)]
struct Tuple {
    remote: RemoteAddr,
    last_request: Instant,
}

/// The agent of one transport.
#[derive(Debug)]
pub struct IceLite {
    worker: u8,
    slot: u32,
    current: Credentials,
    /// After a restart, until the first valid request that uses them.
    next: Option<Credentials>,
    tuples: Vec<Tuple>,
    selected: Option<RemoteAddr>,
    last_request: Option<Instant>,
}

impl IceLite {
    /// An agent that knows nobody.
    pub fn new(worker: u8, slot: u32, rng: &mut impl RngCore) -> Self {
        let current = Credentials::new(worker, slot, rng);
        Self { worker, slot, current, next: None, tuples: Vec::new(), selected: None, last_request: None }
    }

    /// What the client must use from now on.
    pub fn parameters(&self) -> IceParameters {
        self.next.as_ref().unwrap_or(&self.current).parameters()
    }

    /// Makes new credentials; the old ones stay valid until a request proves that the client has the new ones.
    pub fn restart(&mut self, rng: &mut impl RngCore) -> IceParameters {
        self.next = Some(Credentials::new(self.worker, self.slot, rng));
        self.parameters()
    }

    /// Where to send.
    pub fn selected(&self) -> Option<RemoteAddr> {
        self.selected
    }

    /// All addresses that may send to this transport.
    pub fn remotes(&self) -> impl Iterator<Item = RemoteAddr> + '_ {
        self.tuples.iter().map(|tuple| tuple.remote)
    }

    /// When the client counts as lost; `None` before its first valid request (an idle transport is normal).
    pub fn consent_deadline(&self) -> Option<Instant> {
        self.last_request.map(|at| at + CONSENT_TIMEOUT)
    }

    /// Answers one request into `out`.
    pub fn handle_request(
        &mut self,
        now: Instant,
        source: RemoteAddr,
        request: &BindingRequest<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let is_next = self.next.as_ref().is_some_and(|next| next.ufrag == request.local_ufrag);
        if !is_next && self.current.ufrag != request.local_ufrag {
            return Outcome::default();
        }
        let credentials = self.next.as_ref().filter(|_| is_next).unwrap_or(&self.current);
        if !request.verify(&credentials.key) {
            stun::write_error(out, &request.transaction_id, 401, None);
            return Outcome::default();
        }
        if !request.has_priority || !request.controlling {
            // 487 tells a client that thinks it is controlled to switch roles (RFC 8445 §7.3.1.1).
            let code = if request.has_priority { 487 } else { 400 };
            stun::write_error(out, &request.transaction_id, code, Some(&credentials.key));
            return Outcome::default();
        }
        stun::write_success(out, &request.transaction_id, source.addr, &credentials.key);
        if is_next && let Some(next) = self.next.take() {
            self.current = next;
        }
        self.last_request = Some(now);
        let (learned, forgotten) = self.learn(now, source);
        let select = self.selected != Some(source) && (request.use_candidate || self.selected.is_none());
        if select {
            self.selected = Some(source);
        }
        Outcome { accepted: true, learned, forgotten, selected: select }
    }

    fn learn(&mut self, now: Instant, source: RemoteAddr) -> (Option<RemoteAddr>, Option<RemoteAddr>) {
        if let Some(tuple) = self.tuples.iter_mut().find(|tuple| tuple.remote == source) {
            tuple.last_request = now;
            return (None, None);
        }
        let mut forgotten = None;
        if self.tuples.len() == TUPLES_MAX {
            let selected = self.selected;
            let oldest = self.tuples.iter().enumerate().filter(|(_, tuple)| Some(tuple.remote) != selected);
            if let Some((at, _)) = oldest.min_by_key(|(_, tuple)| tuple.last_request) {
                forgotten = Some(self.tuples.swap_remove(at).remote);
            }
        }
        self.tuples.push(Tuple { remote: source, last_request: now });
        (Some(source), forgotten)
    }

    /// A path has ended (its TCP connection closed). Another one is selected if there is any.
    pub fn forget(&mut self, remote: RemoteAddr) {
        self.tuples.retain(|tuple| tuple.remote != remote);
        if self.selected == Some(remote) {
            self.selected =
                self.tuples.iter().max_by_key(|tuple| tuple.last_request).map(|tuple| tuple.remote);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha12Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn udp(port: u16) -> RemoteAddr {
        RemoteAddr { via: Via::Udp, addr: SocketAddr::from(([192, 0, 2, 1], port)) }
    }

    fn ask(agent: &mut IceLite, now: Instant, from: RemoteAddr, ice: &IceParameters) -> Outcome {
        let mut datagram = Vec::new();
        let username = format!("{}:them", ice.username_fragment);
        stun::write_request(&mut datagram, &[1; 12], &username, &stun::key(&ice.password));
        let request = BindingRequest::parse(&datagram).expect("well-formed");
        agent.handle_request(now, from, &request, &mut Vec::new())
    }

    #[test]
    fn an_address_is_learned_only_with_our_password() {
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        let mut agent = IceLite::new(3, 0x1234, &mut rng);
        let now = Instant::now();
        let good = agent.parameters();
        assert_eq!(worker_and_slot(&good.username_fragment), Some((3, 0x1234)));
        let forged = IceParameters { password: "guess".into(), ..good.clone() };
        assert!(!ask(&mut agent, now, udp(1), &forged).accepted);
        assert_eq!((agent.selected(), agent.consent_deadline()), (None, None));
        assert!(ask(&mut agent, now, udp(1), &good).selected);
        assert!(ask(&mut agent, now, udp(2), &good).selected, "a nominated address is followed");
        assert_eq!(agent.selected(), Some(udp(2)));
    }

    #[test]
    fn old_credentials_live_until_the_new_ones_are_used() {
        let mut rng = ChaCha12Rng::from_seed([2; 32]);
        let mut agent = IceLite::new(0, 1, &mut rng);
        let now = Instant::now();
        let old = agent.parameters();
        let new = agent.restart(&mut rng);
        assert!(ask(&mut agent, now, udp(1), &old).accepted);
        assert!(ask(&mut agent, now, udp(1), &new).accepted);
        assert!(!ask(&mut agent, now, udp(1), &old).accepted);
    }

    #[test]
    fn the_oldest_address_makes_room() {
        let mut rng = ChaCha12Rng::from_seed([3; 32]);
        let mut agent = IceLite::new(0, 1, &mut rng);
        let start = Instant::now();
        let ice = agent.parameters();
        for port in 0..TUPLES_MAX as u16 {
            ask(&mut agent, start + Duration::from_millis(port.into()), udp(port), &ice);
        }
        let outcome = ask(&mut agent, start + Duration::from_secs(1), udp(99), &ice);
        assert_eq!((outcome.learned, outcome.forgotten), (Some(udp(99)), Some(udp(0))));
        assert_eq!(agent.remotes().count(), TUPLES_MAX);
    }
}
