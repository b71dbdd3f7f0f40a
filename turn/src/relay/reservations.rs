//! Ports that a client has reserved beside its own, for RTCP next to RTP (EVEN-PORT's R bit, RFC 8656 §7.2, §18.5).
//!
//! Their sockets are open already; an Allocate request with the RESERVATION-TOKEN takes one over, at whichever worker it
//! arrives: the `ledger` knows the tokens. Here are those that this worker has made, until they end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::addresses::RelayedAddr;

/// RFC 8656 §7.2: at least 30 seconds.
const LIFETIME: Duration = Duration::from_secs(30);
/// Reservations of one worker at once; one more is refused with 508.
const RESERVATIONS_MAX: usize = 1024;

/// RESERVATION-TOKEN, unpredictable.
pub(super) type Token = [u8; 8];

/// The reservations that one worker has made.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    /// In order, since all live equally long; what was redeemed meanwhile is passed over.
    ends: VecDeque<(Instant, RelayedAddr, Token)>,
}

impl Reservations {
    /// Counts those that were redeemed and whose end has not come, too: the ledger's list is bounded by it.
    pub(super) fn is_full(&self) -> bool {
        self.ends.len() >= RESERVATIONS_MAX
    }

    pub(super) fn add(&mut self, relayed: RelayedAddr, token: Token, now: Instant) {
        self.ends.push_back((now + LIFETIME, relayed, token));
    }

    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, ..)| *end)
    }

    /// The next one whose time has come.
    pub(super) fn ended(&mut self, now: Instant) -> Option<(RelayedAddr, Token)> {
        self.ends.pop_front_if(|(end, ..)| *end <= now).map(|(_, relayed, token)| (relayed, token))
    }
}
