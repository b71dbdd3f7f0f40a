//! Nonces that cost no memory: a time and a truncated HMAC over it and the client's address, so that a forged request costs
//! one comparison and nothing is remembered about anybody who has not proved a password.
//!
//! ```text
//! obMatJos2 | base64 of 24 feature bits | base64 of: time, 4 bytes | HMAC, 8 bytes
//! ```
//!
//! The first two parts are the nonce cookie of RFC 8489 §9.2.1. It is covered by the HMAC, and absent when no feature is
//! offered, as RFC 5389 has it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::stun::integrity::{Key, same};

/// RFC 8489 §9.2.1.
const COOKIE: &str = "obMatJos2";
/// The cookie with its feature bits.
const COOKIE_BYTES: usize = COOKIE.len() + 4;

/// Time in 4 bytes, HMAC in 8: 64 bits cannot be guessed within an hour at any packet rate.
const TIME_BYTES: usize = 4;
const TAG_BYTES: usize = 8;

/// A nonce with the cookie, and one without.
pub(super) const BYTES_MAX: usize = COOKIE_BYTES + BYTES_MIN;
pub(super) const BYTES_MIN: usize = 16;

/// STUN security features, the first byte of 24 bits (RFC 8489 §18.1: bit 0 is the leftmost). Appendix B.1 shows a cookie
/// with the bits in another order; the registry's text decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Features(pub(super) u8);

impl Features {
    /// PASSWORD-ALGORITHMS came with this nonce.
    pub(super) const PASSWORD_ALGORITHMS: Self = Self(0x80);
    /// USERHASH is understood instead of USERNAME, of every user.
    pub(super) const USERNAME_ANONYMITY: Self = Self(0x40);

    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Makes nonces and knows them again.
#[derive(Debug)]
pub(super) struct Nonces {
    key: Key,
    lifetime: Option<Duration>,
}

impl Nonces {
    /// `secret` comes from the seed: nonces of an earlier run are stale, not wrong. Without a lifetime they end with it.
    pub(super) fn new(secret: &[u8; 32], lifetime: Option<Duration>) -> Self {
        Self { key: Key::raw(secret), lifetime }
    }

    /// NONCE for a client. `offer` is what was offered with it; another one makes it stale.
    pub(super) fn issue(&self, client: SocketAddr, unix: u64, features: Features, offer: &[u8]) -> String {
        let time = (unix as u32).to_be_bytes();
        let mut proof = [0; TIME_BYTES + TAG_BYTES];
        proof[..TIME_BYTES].copy_from_slice(&time);
        proof[TIME_BYTES..].copy_from_slice(&self.tag(time, client, features, offer));
        let mut nonce = String::with_capacity(BYTES_MAX);
        if features != Features::default() {
            nonce.push_str(COOKIE);
            STANDARD_NO_PAD.encode_string([features.0, 0, 0], &mut nonce);
        }
        STANDARD_NO_PAD.encode_string(proof, &mut nonce);
        nonce
    }

    /// The features that a nonce of ours announced; `None` when it is stale, or was never one for this client.
    pub(super) fn check(
        &self,
        nonce: &[u8],
        client: SocketAddr,
        unix: u64,
        offer: &[u8],
    ) -> Option<Features> {
        let (features, proof) = split(nonce)?;
        let mut bytes = [0; TIME_BYTES + TAG_BYTES];
        if STANDARD_NO_PAD.decode_slice(proof, &mut bytes) != Ok(bytes.len()) {
            return None;
        }
        let (time, tag) = bytes.split_at(TIME_BYTES);
        let time: [u8; TIME_BYTES] = time.try_into().expect("split there");
        let age = u64::from((unix as u32).wrapping_sub(u32::from_be_bytes(time)));
        let fresh = self.lifetime.is_none_or(|lifetime| age < lifetime.as_secs());
        (fresh && same(&self.tag(time, client, features, offer), tag)).then_some(features)
    }

    fn tag(
        &self,
        time: [u8; TIME_BYTES],
        client: SocketAddr,
        features: Features,
        offer: &[u8],
    ) -> [u8; TAG_BYTES] {
        let port = client.port().to_be_bytes();
        let sign = |ip: &[u8]| self.key.sign(&[&time, &port, &[features.0, ip.len() as u8], ip, offer]);
        let tag = match client.ip() {
            IpAddr::V4(ip) => sign(&ip.octets()),
            IpAddr::V6(ip) => sign(&ip.octets()),
        };
        tag.as_ref()[..TAG_BYTES].try_into().expect("SHA-1 has 20 bytes")
    }
}

/// The features in the cookie, and what is behind it.
fn split(nonce: &[u8]) -> Option<(Features, &[u8])> {
    if !nonce.starts_with(COOKIE.as_bytes()) {
        return Some((Features::default(), nonce));
    }
    let (cookie, proof) = nonce.split_at_checked(COOKIE_BYTES)?;
    let mut bits = [0; 3];
    if STANDARD_NO_PAD.decode_slice(&cookie[COOKIE.len()..], &mut bits) != Ok(3) || bits[1..] != [0, 0] {
        return None;
    }
    Some((Features(bits[0]), proof))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const OFFER: &[u8] = &[0, 2, 0, 0, 0, 1, 0, 0];

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_nonce_is_good_for_its_client_its_offer_and_an_hour() {
        let nonces = Nonces::new(&[7; 32], Some(Duration::from_secs(3600)));
        let client = addr("203.0.113.5:1000");
        let nonce = nonces.issue(client, NOW, Features::PASSWORD_ALGORITHMS, OFFER);
        assert_eq!(nonce.len(), 29);
        assert!(nonce.starts_with("obMatJos2gAAA"), "bit 0 is the leftmost");
        let fresh = |nonce: &str, client, at| nonces.check(nonce.as_bytes(), client, at, OFFER).is_some();
        assert!(fresh(&nonce, client, NOW));
        assert!(fresh(&nonce, client, NOW + 3599));
        assert!(!fresh(&nonce, client, NOW + 3600));
        assert!(!fresh(&nonce, client, NOW - 1), "from the future");
        assert!(!fresh(&nonce, addr("203.0.113.5:1001"), NOW));
        assert!(!fresh(&nonce, addr("203.0.113.6:1000"), NOW));
        assert!(nonces.check(nonce.as_bytes(), client, NOW, &OFFER[4..]).is_none(), "another offer");
        let stripped = &nonce[COOKIE_BYTES..];
        let other_bits = nonce.replacen("gAAA", "AAAA", 1);
        for bad in ["", "AAAAAAAAAAAAAAAA", "not base64!", "obMatJos2", "obMatJos2gA", stripped, &other_bits]
        {
            assert!(!fresh(bad, client, NOW), "{bad}");
        }
        assert!(!fresh(&"A".repeat(700), client, NOW));
    }

    #[test]
    fn without_features_a_nonce_is_as_rfc_5389_had_it() {
        let nonces = Nonces::new(&[7; 32], None);
        let client = addr("[2001:db8::5]:1000");
        let nonce = nonces.issue(client, NOW, Features::default(), &[]);
        assert_eq!(nonce.len(), 16);
        let years_later = NOW + 100_000_000;
        assert_eq!(nonces.check(nonce.as_bytes(), client, years_later, &[]), Some(Features::default()));
    }
}
