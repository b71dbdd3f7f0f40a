//! Who may allocate: shared secrets of time-limited credentials, static users, or everybody when that is asked for.
//!
//! [`Credentials`] is what an operator gives; `Keys` is what is made of it once, so that a request costs a lookup and one
//! verification. Names and passwords are taken as bytes: whoever mints them prepares them (RFC 8489's OpaqueString).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::config::Secret;

use super::USERNAME_BYTES_MAX;
use crate::stun::integrity::{Key, LongTermKey, PasswordAlgorithm, USERHASH_BYTES, userhash};

/// Between the expiry and the user of a time-limited name (draft-uberti-behave-turn-rest-00).
pub const SEPARATOR_DEFAULT: char = ':';

/// Who may allocate. May change while the relay runs.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Shared secrets of time-limited credentials. All count, so that a new one is known before the old one goes.
    pub secrets: Vec<Secret>,
    /// Between the expiry and the user of a time-limited name.
    pub separator: char,
    /// Static users and their passwords. `0x` and 32 or 64 hexadecimal digits are no password, but the key itself, made
    /// with MD5 or SHA-256 (`turnadmin -k`).
    pub users: BTreeMap<String, Secret>,
    /// Everybody may allocate, without a password. Then the others count for nothing.
    pub anonymous: bool,
}

impl Default for Credentials {
    fn default() -> Self {
        Self { secrets: Vec::new(), separator: SEPARATOR_DEFAULT, users: BTreeMap::new(), anonymous: false }
    }
}

impl Credentials {
    /// One shared secret.
    pub fn of_secret(secret: Secret) -> Self {
        Self { secrets: vec![secret], ..Self::default() }
    }
}

/// A static user with the keys that can be had of it.
#[derive(Debug)]
pub(super) struct User {
    pub(super) name: Arc<str>,
    md5: Option<LongTermKey>,
    sha256: Option<LongTermKey>,
}

impl User {
    fn new(name: &str, realm: &str, password: &Secret) -> Self {
        let derived = |algorithm| Some(LongTermKey::new(algorithm, name, realm, &password.0));
        let (md5, sha256) = match hex_key(&password.0) {
            Some(key @ LongTermKey::Md5(_)) => (Some(key), None),
            Some(key @ LongTermKey::Sha256(_)) => (None, Some(key)),
            None => (derived(PasswordAlgorithm::Md5), derived(PasswordAlgorithm::Sha256)),
        };
        Self { name: name.into(), md5, sha256 }
    }

    pub(super) fn key(&self, algorithm: PasswordAlgorithm) -> Option<LongTermKey> {
        match algorithm {
            PasswordAlgorithm::Md5 => self.md5,
            PasswordAlgorithm::Sha256 => self.sha256,
        }
    }
}

/// A time-limited user name, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TimedName {
    /// Seconds since the Unix epoch.
    pub(super) expires: u64,
    /// The user in it, whom quotas count.
    pub(super) user: Range<usize>,
}

/// [`Credentials`], ready.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) anonymous: bool,
    secrets: Vec<Key>,
    separator: char,
    /// By USERHASH, for either way to name a user; and how long a search takes tells nothing about names.
    users: BTreeMap<[u8; USERHASH_BYTES], User>,
    /// What PASSWORD-ALGORITHMS offers, best first.
    pub(super) algorithms: &'static [PasswordAlgorithm],
}

impl Keys {
    pub(super) fn new(credentials: &Credentials, realm: &str) -> Self {
        let with_key =
            |(name, password): (&String, &Secret)| (userhash(name, realm), User::new(name, realm, password));
        let nameable = |(name, _): &(&String, &Secret)| name.len() <= USERNAME_BYTES_MAX;
        let users: BTreeMap<_, _> = credentials.users.iter().filter(nameable).map(with_key).collect();
        let only_md5 = users.values().any(|user| user.sha256.is_none());
        let secrets = credentials.secrets.iter().filter(|secret| !secret.0.is_empty());
        Self {
            anonymous: credentials.anonymous,
            secrets: secrets.map(|secret| Key::raw(&secret.0)).collect(),
            separator: credentials.separator,
            users,
            // A client takes the best that is offered: what not every user has a key for is not offered.
            algorithms: match only_md5 {
                true => &[PasswordAlgorithm::Md5],
                false => &[PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5],
            },
        }
    }

    /// Whether every user can be found by USERHASH: names that are not known beforehand cannot.
    pub(super) fn knows_all_names(&self) -> bool {
        self.secrets.is_empty() && !self.users.is_empty()
    }

    pub(super) fn user(&self, hash: &[u8; USERHASH_BYTES]) -> Option<&User> {
        self.users.get(hash)
    }

    pub(super) fn has_users(&self) -> bool {
        !self.users.is_empty()
    }

    /// `None` as well when no secret is there to prove it with.
    pub(super) fn timed_name(&self, username: &str) -> Option<TimedName> {
        if self.secrets.is_empty() { None } else { timed_name(username, self.separator) }
    }

    /// The keys that a time-limited name has, one per secret.
    pub(super) fn timed_keys(
        &self,
        username: &str,
        realm: &str,
        algorithm: PasswordAlgorithm,
    ) -> impl Iterator<Item = LongTermKey> {
        self.secrets.iter().map(move |secret| {
            let password = STANDARD.encode(secret.sign(&[username.as_bytes()]));
            LongTermKey::new(algorithm, username, realm, password.as_bytes())
        })
    }
}

/// `expiry`, `expiry:user`, or `user:expiry`, which coturn takes too.
fn timed_name(username: &str, separator: char) -> Option<TimedName> {
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse().ok(), // which would take a plus sign
        false => None,
    };
    let Some((first, second)) = username.split_once(separator) else {
        return number(username).map(|expires| TimedName { expires, user: 0..username.len() });
    };
    match number(first) {
        Some(expires) => Some(TimedName { expires, user: username.len() - second.len()..username.len() }),
        None => number(second).map(|expires| TimedName { expires, user: 0..first.len() }),
    }
}

fn hex_key(password: &[u8]) -> Option<LongTermKey> {
    let digits = std::str::from_utf8(password.strip_prefix(b"0x")?).ok()?;
    match digits.len() {
        32 => hex(digits).map(LongTermKey::Md5),
        64 => hex(digits).map(LongTermKey::Sha256),
        _ => None,
    }
}

fn hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timed_name_holds_an_expiry_on_either_side() {
        let check = |name: &str, separator, expected: Option<(u64, &str)>| {
            let found = timed_name(name, separator).map(|timed| (timed.expires, &name[timed.user]));
            assert_eq!(found, expected, "{name}");
        };
        check("17:alice", ':', Some((17, "alice")));
        check("alice:17", ':', Some((17, "alice")));
        check("17:18", ':', Some((17, "18")));
        check("17", ':', Some((17, "17")));
        check("17:a:b", ':', Some((17, "a:b")));
        check("17-alice", '-', Some((17, "alice")));
        check("17:alice", '-', None);
        check("alice", ':', None);
        check("+5:alice", ':', None);
        check(":alice", ':', None);
        check("99999999999999999999:alice", ':', None);
        check("", ':', None);
    }

    #[test]
    fn a_key_in_place_of_a_password_is_taken_as_it_is() {
        // turnadmin -k -u user -r example.org -p pass
        let LongTermKey::Md5(key) = LongTermKey::new(PasswordAlgorithm::Md5, "user", "example.org", b"pass")
        else {
            panic!("made with MD5")
        };
        let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let given = Secret(format!("0x{text}").into_bytes());
        let user = User::new("user", "example.org", &given);
        assert_eq!(user.key(PasswordAlgorithm::Md5), Some(LongTermKey::Md5(key)));
        assert_eq!(user.key(PasswordAlgorithm::Sha256), None);
        for no_key in ["0x12", "0xg2345678901234567890123456789012", "pass"] {
            assert_eq!(hex_key(no_key.as_bytes()), None, "{no_key}");
        }

        let keys = |password: &str| {
            let users = [("user".to_owned(), Secret(password.into()))].into();
            Keys::new(&Credentials { users, ..Credentials::default() }, "example.org")
        };
        assert_eq!(keys("pass").algorithms, [PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5]);
        assert_eq!(
            keys(&format!("0x{text}")).algorithms,
            [PasswordAlgorithm::Md5],
            "what all have a key for"
        );
    }
}
