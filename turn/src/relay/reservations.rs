//! Ports that a client has reserved beside its own, for RTCP next to RTP (EVEN-PORT's R bit, RFC 8656 §7.2, §18.5).
//!
//! Their sockets are open already; an Allocate request with the RESERVATION-TOKEN takes one over. `requests` makes and
//! redeems them, `relay` ends them.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::io::RelayedPort;

/// RFC 8656 §7.2: at least 30 seconds.
const LIFETIME: Duration = Duration::from_secs(30);
/// Reservations at once; one more is refused with 508.
const RESERVATIONS_MAX: usize = 1024;

/// RESERVATION-TOKEN, unpredictable.
pub(super) type Token = [u8; 8];

#[derive(Debug)]
struct Reservation {
    token: Token,
    /// Who may redeem it, as quotas count users.
    user: String,
}

/// All reservations.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    by_port: BTreeMap<RelayedPort, Reservation>,
    /// In order, since all live equally long; what was redeemed meanwhile is passed over.
    ends: VecDeque<(Instant, RelayedPort, Token)>,
}

impl Reservations {
    pub(super) fn contains(&self, port: RelayedPort) -> bool {
        self.by_port.contains_key(&port)
    }

    pub(super) fn len(&self) -> usize {
        self.by_port.len()
    }

    /// Counts those that were redeemed and whose end has not come, too: both lists are bounded by it.
    pub(super) fn is_full(&self) -> bool {
        self.ends.len() >= RESERVATIONS_MAX
    }

    pub(super) fn of_user(&self, user: &str) -> usize {
        self.by_port.values().filter(|reservation| reservation.user == user).count()
    }

    pub(super) fn add(&mut self, port: RelayedPort, token: Token, user: &str, now: Instant) {
        self.by_port.insert(port, Reservation { token, user: user.to_owned() });
        self.ends.push_back((now + LIFETIME, port, token));
    }

    /// The port behind a token of this user, which is no longer reserved then.
    pub(super) fn redeem(&mut self, token: Token, user: &str) -> Option<RelayedPort> {
        let found = self.by_port.iter().find(|(_, r)| r.token == token && r.user == user);
        let port = *found?.0;
        self.by_port.remove(&port);
        Some(port)
    }

    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, ..)| *end)
    }

    /// A port whose reservation has ended without having been redeemed.
    pub(super) fn expire(&mut self, now: Instant) -> Option<RelayedPort> {
        while let Some(&(_, port, token)) = self.ends.front().filter(|(end, ..)| *end <= now) {
            self.ends.pop_front();
            if self.by_port.get(&port).is_some_and(|reservation| reservation.token == token) {
                self.by_port.remove(&port);
                return Some(port);
            }
        }
        None
    }
}
