//! Long-term credentials (RFC 8489 §9.2), nonces that cost no memory, and a bound on answers to strangers.
//!
//! A nonce is a time and a truncated HMAC over it and the client's address, so a forged request costs one comparison and
//! nothing is remembered about anybody who has not proved a password.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use common::config::Secret;
use common::turn_credentials;

use crate::stun::Message;
use crate::stun::attributes::{ErrorCode, Kind};
use crate::stun::integrity::{Key, LongTermKey, same};

/// RFC 8656 §5: a nonce should expire at least once every hour.
pub const NONCE_LIFETIME: Duration = Duration::from_secs(3600);

/// RFC 8489 §14.3: USERNAME is shorter than 509 bytes.
const USERNAME_BYTES_MAX: usize = 508;

/// Time in 4 bytes, HMAC in 8: 64 bits cannot be guessed within an hour at any packet rate.
const NONCE_TIME_BYTES: usize = 4;
const NONCE_TAG_BYTES: usize = 8;

/// Who may allocate, and how they prove it.
#[derive(Debug)]
pub struct Authenticator {
    realm: String,
    secret: Secret,
    users: BTreeMap<String, Secret>,
    nonce_key: Key,
}

/// What a proved request was made with.
#[derive(Debug, Clone)]
pub struct Proof {
    /// USERNAME as sent.
    pub username: String,
    /// The key that answers are signed with.
    pub key: LongTermKey,
}

impl Authenticator {
    /// `nonce_secret` comes from the seed: nonces of an earlier run are stale, not wrong.
    pub fn new(
        realm: String,
        secret: Secret,
        users: BTreeMap<String, Secret>,
        nonce_secret: &[u8; 32],
    ) -> Self {
        Self { realm, secret, users, nonce_key: Key::raw(nonce_secret) }
    }

    /// REALM.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// NONCE for a client, 16 characters.
    pub fn nonce(&self, client: SocketAddr, unix_seconds: u64) -> String {
        let time = (unix_seconds as u32).to_be_bytes();
        let mut nonce = [0; NONCE_TIME_BYTES + NONCE_TAG_BYTES];
        nonce[..NONCE_TIME_BYTES].copy_from_slice(&time);
        nonce[NONCE_TIME_BYTES..].copy_from_slice(&self.nonce_tag(time, client));
        STANDARD_NO_PAD.encode(nonce)
    }

    /// Checks a request in the order of RFC 8489 §9.2.4. `known` is the proof that the client's allocation was made
    /// with: its key outlives the credentials' expiry, so that a call outlives them too.
    pub fn check(
        &self,
        request: &Message<'_>,
        client: SocketAddr,
        unix_seconds: u64,
        known: Option<&Proof>,
    ) -> Result<Proof, ErrorCode> {
        if !request.has_integrity() {
            return Err(ErrorCode::UNAUTHENTICATED);
        }
        let (Some(username), Some(realm), Some(nonce)) =
            (request.attribute(Kind::USERNAME), request.text(Kind::REALM), request.attribute(Kind::NONCE))
        else {
            return Err(ErrorCode::BAD_REQUEST);
        };
        if !self.nonce_is_fresh(nonce, client, unix_seconds) {
            return Err(ErrorCode::STALE_NONCE);
        }
        let username = std::str::from_utf8(username).map_err(|_| ErrorCode::UNAUTHENTICATED)?;
        if realm != self.realm || username.len() > USERNAME_BYTES_MAX {
            return Err(ErrorCode::UNAUTHENTICATED);
        }
        let key = match known {
            Some(proof) if proof.username == username => proof.key,
            _ => self.key_of(username, unix_seconds).ok_or(ErrorCode::UNAUTHENTICATED)?,
        };
        if !request.integrity_holds(&key.ready()) {
            return Err(ErrorCode::UNAUTHENTICATED);
        }
        if known.is_some_and(|proof| proof.username != username) {
            return Err(ErrorCode::WRONG_CREDENTIALS);
        }
        Ok(Proof { username: username.to_owned(), key })
    }

    /// Static users first; then the user names that carry their own expiry.
    fn key_of(&self, username: &str, unix_seconds: u64) -> Option<LongTermKey> {
        if let Some(password) = self.users.get(username) {
            return Some(LongTermKey::new(username, &self.realm, &password.0));
        }
        if self.secret.0.is_empty() || turn_credentials::expiry_of(username)? < unix_seconds {
            return None;
        }
        let password = turn_credentials::password_for(&self.secret, username);
        Some(LongTermKey::new(username, &self.realm, password.as_bytes()))
    }

    fn nonce_is_fresh(&self, nonce: &[u8], client: SocketAddr, unix_seconds: u64) -> bool {
        let mut bytes = [0; NONCE_TIME_BYTES + NONCE_TAG_BYTES];
        if STANDARD_NO_PAD.decode_slice(nonce, &mut bytes) != Ok(bytes.len()) {
            return false;
        }
        let (time, tag) = bytes.split_at(NONCE_TIME_BYTES);
        let time: [u8; NONCE_TIME_BYTES] = time.try_into().expect("split there");
        let age = (unix_seconds as u32).wrapping_sub(u32::from_be_bytes(time));
        u64::from(age) < NONCE_LIFETIME.as_secs() && same(&self.nonce_tag(time, client), tag)
    }

    fn nonce_tag(&self, time: [u8; NONCE_TIME_BYTES], client: SocketAddr) -> [u8; NONCE_TAG_BYTES] {
        let port = client.port().to_be_bytes();
        let tag = match client.ip() {
            IpAddr::V4(ip) => self.nonce_key.sign(&[&time, &port, &ip.octets()]),
            IpAddr::V6(ip) => self.nonce_key.sign(&[&time, &port, &ip.octets()]),
        };
        tag.as_ref()[..NONCE_TAG_BYTES].try_into().expect("SHA-1 has 20 bytes")
    }
}

/// Who a quota counts: the user behind the expiry, or the whole name.
pub fn quota_name(username: &str) -> &str {
    turn_credentials::user_of(username).unwrap_or(username)
}

/// Buckets of [`StrangerLimit`]. Sources that share one share its rate: bounded memory is worth that.
const BUCKETS: usize = 4096;

/// How many answers strangers get per source network (/24 or /64), so that a spoofed flood is not passed on.
#[derive(Debug)]
pub struct StrangerLimit {
    per_second: u32,
    salt: u64,
    buckets: Vec<Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
}

impl StrangerLimit {
    /// `per_second` answers, and twice as many in a burst.
    pub fn new(per_second: u32, salt: u64, now: Instant) -> Self {
        let full = Bucket { tokens: per_second.saturating_mul(2), refilled: now };
        Self { per_second, salt, buckets: vec![full; BUCKETS] }
    }

    /// Whether one more answer may go there.
    pub fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        let burst = self.per_second.saturating_mul(2);
        let bucket = &mut self.buckets[index(source, self.salt)];
        let elapsed = now.saturating_duration_since(bucket.refilled).as_millis().min(10_000) as u64;
        let earned = (elapsed * u64::from(self.per_second) / 1000) as u32;
        if earned > 0 {
            bucket.tokens = bucket.tokens.saturating_add(earned).min(burst);
            bucket.refilled = now;
        }
        let allowed = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        allowed
    }
}

fn index(source: IpAddr, salt: u64) -> usize {
    let network = match source {
        IpAddr::V4(ip) => u64::from(ip.to_bits() >> 8),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    };
    // Fibonacci hashing of a salted value: the high bits are well mixed.
    let mixed = (network ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> (64 - BUCKETS.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn authenticator() -> Authenticator {
        Authenticator::new("test".into(), Secret(b"north".to_vec()), BTreeMap::new(), &[7; 32])
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_nonce_is_good_for_its_client_and_an_hour() {
        let auth = authenticator();
        let client = addr("203.0.113.5:1000");
        let nonce = auth.nonce(client, NOW);
        assert_eq!(nonce.len(), 16);
        let fresh = |nonce: &str, client, at| auth.nonce_is_fresh(nonce.as_bytes(), client, at);
        assert!(fresh(&nonce, client, NOW));
        assert!(fresh(&nonce, client, NOW + 3599));
        assert!(!fresh(&nonce, client, NOW + 3600));
        assert!(!fresh(&nonce, client, NOW - 1), "from the future");
        assert!(!fresh(&nonce, addr("203.0.113.5:1001"), NOW));
        assert!(!fresh(&nonce, addr("203.0.113.6:1000"), NOW));
        for bad in ["", "AAAAAAAAAAAAAAAA", "not base64!", &"A".repeat(700)] {
            assert!(!fresh(bad, client, NOW), "{bad}");
        }
    }

    #[test]
    fn expired_credentials_have_no_key() {
        let auth = authenticator();
        assert!(auth.key_of(&format!("{NOW}:alice"), NOW).is_some());
        assert!(auth.key_of(&format!("{}:alice", NOW - 1), NOW).is_none());
        assert!(auth.key_of("alice", NOW).is_none());
    }

    #[test]
    fn strangers_of_one_network_share_a_rate() {
        let start = Instant::now();
        let mut limit = StrangerLimit::new(10, 1, start);
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!((0..100).filter(|_| limit.take(ip("203.0.113.5"), start)).count(), 20);
        assert!(!limit.take(ip("203.0.113.77"), start));
        assert!(limit.take(ip("198.51.100.1"), start));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| limit.take(ip("203.0.113.5"), later)).count(), 10);
    }
}
