//! Ports that a client has reserved beside its own, for RTCP next to RTP (EVEN-PORT's R bit, RFC 8656 §7.2, §18.5).
//!
//! Their sockets are open already; an Allocate request with the RESERVATION-TOKEN takes one over. `requests` makes and
//! redeems them, `relay` ends them.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::addresses::RelayedAddr;

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
    by_address: BTreeMap<RelayedAddr, Reservation>,
    /// In order, since all live equally long; what was redeemed meanwhile is passed over.
    ends: VecDeque<(Instant, RelayedAddr, Token)>,
}

impl Reservations {
    pub(super) fn contains(&self, relayed: RelayedAddr) -> bool {
        self.by_address.contains_key(&relayed)
    }

    pub(super) fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Counts those that were redeemed and whose end has not come, too: both lists are bounded by it.
    pub(super) fn is_full(&self) -> bool {
        self.ends.len() >= RESERVATIONS_MAX
    }

    pub(super) fn of_user(&self, user: &str) -> usize {
        self.by_address.values().filter(|reservation| reservation.user == user).count()
    }

    pub(super) fn add(&mut self, relayed: RelayedAddr, token: Token, user: &str, now: Instant) {
        self.by_address.insert(relayed, Reservation { token, user: user.to_owned() });
        self.ends.push_back((now + LIFETIME, relayed, token));
    }

    /// The port behind a token of this user, which is no longer reserved then.
    pub(super) fn redeem(&mut self, token: Token, user: &str) -> Option<RelayedAddr> {
        let found = self.by_address.iter().find(|(_, r)| r.token == token && r.user == user);
        let relayed = *found?.0;
        self.by_address.remove(&relayed);
        Some(relayed)
    }

    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, ..)| *end)
    }

    /// A port whose reservation has ended without having been redeemed.
    pub(super) fn expire(&mut self, now: Instant) -> Option<RelayedAddr> {
        while let Some(&(_, relayed, token)) = self.ends.front().filter(|(end, ..)| *end <= now) {
            self.ends.pop_front();
            if self.by_address.get(&relayed).is_some_and(|reservation| reservation.token == token) {
                self.by_address.remove(&relayed);
                return Some(relayed);
            }
        }
        None
    }
}
