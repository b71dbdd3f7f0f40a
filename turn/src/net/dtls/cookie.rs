//! Cookies that cost no memory, and engines that take them (RFC 6347 §4.2.1).
//!
//! dimpl draws a cookie's secret anew for each engine, so that whoever asks would have to be remembered before it is known
//! to receive at its address. Ours are an HMAC over address, time and the ClientHello's random; `mod` checks them, and an engine
//! is made to arrive at the same cookie by the HMAC that it is given to compute its own with.

use std::cell::Cell;
use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use dimpl::crypto::{self, CryptoProvider, HmacProvider};
use dimpl::{CryptoError, HashAlgorithm};

use super::hello::Random;
use crate::relay::ClientAddr;

/// A cookie is good for this long, and at most twice as long.
pub(super) const PERIOD: Duration = Duration::from_secs(60);

/// As long as dimpl's.
pub(super) type Cookie = [u8; 32];

pub(super) struct Cookies(hmac::Key);

impl Cookies {
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// `age` is a time that never goes back.
    pub(super) fn cookie(&self, client: &ClientAddr, random: &Random, age: Duration) -> Cookie {
        self.of_period(client, random, age.as_secs() / PERIOD.as_secs())
    }

    /// The cookie, when it is one that we gave this client for this handshake not long ago.
    pub(super) fn check(
        &self,
        client: &ClientAddr,
        random: &Random,
        age: Duration,
        cookie: &[u8],
    ) -> Option<Cookie> {
        let period = age.as_secs() / PERIOD.as_secs();
        let good = [Some(period), period.checked_sub(1)].into_iter().flatten();
        good.map(|period| self.of_period(client, random, period))
            .find(|good| constant_time::verify_slices_are_equal(good, cookie).is_ok())
    }

    fn of_period(&self, client: &ClientAddr, random: &Random, period: u64) -> Cookie {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(random);
        context.update(&period.to_be_bytes());
        context.update(format!("{} {}", client.remote, client.local).as_bytes());
        *context.sign().as_ref().first_chunk().expect("SHA-256 has 32 bytes")
    }
}

thread_local! {
    /// The cookie that an engine on this thread is to find good.
    static GRANTED: Cell<Option<Cookie>> = const { Cell::new(None) };
}

/// While `greet` runs, engines with our [`provider`] take this cookie for their own.
pub(super) fn granting<T>(cookie: Cookie, greet: impl FnOnce() -> T) -> T {
    GRANTED.set(Some(cookie));
    let result = greet();
    GRANTED.set(None);
    result
}

/// aws-lc-rs, with [`granting`].
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider { hmac_provider: &GrantingHmac, ..crypto::aws_lc_rs::default_provider() }
}

#[derive(Debug)]
struct GrantingHmac;

impl HmacProvider for GrantingHmac {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        match GRANTED.get() {
            // A cookie's: a secret of 32 bytes over a random of 32 bytes. Nothing else is asked for before the keys.
            Some(cookie) if (key.len(), data.len()) == (32, 32) => Ok(cookie),
            _ => crypto::aws_lc_rs::default_provider().hmac_provider.hmac_sha256(key, data),
        }
    }

    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        crypto::aws_lc_rs::default_provider().hmac_provider.hmac(hash, key, data, out)
    }
}
