//! MESSAGE-INTEGRITY (HMAC-SHA1), MESSAGE-INTEGRITY-SHA256 and FINGERPRINT (CRC-32), computed over the raw bytes, and the
//! keys of long-term credentials (RFC 8489 §9.2.2, §14.5–§14.7).
//!
//! Each covers the message as if it ended with it, so the length in the header is replaced while hashing. SHA-256 values
//! are taken whole only: a shorter one is for usages that say so (§14.6), and TURN does not.

use aws_lc_rs::{constant_time, digest, hmac};
use md5::{Digest, Md5};

use super::attributes::Kind;
use super::header::HEADER_BYTES;

/// Type and length of an attribute.
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// FINGERPRINT with its type and length.
pub const FINGERPRINT_BYTES: usize = 8;
/// RFC 8489 §14.7: "STUN" in ASCII.
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// USERHASH (RFC 8489 §14.4).
pub const USERHASH_BYTES: usize = 32;

/// Which attribute a message is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256
    Sha256,
}

impl Integrity {
    /// The attribute's type.
    pub fn kind(self) -> Kind {
        match self {
            Self::Sha1 => Kind::MESSAGE_INTEGRITY,
            Self::Sha256 => Kind::MESSAGE_INTEGRITY_SHA256,
        }
    }

    /// Bytes of the attribute with its type and length.
    pub fn bytes(self) -> usize {
        ATTRIBUTE_HEADER_BYTES + self.value_bytes()
    }

    fn value_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// How a password becomes a key (PASSWORD-ALGORITHM, RFC 8489 §18.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordAlgorithm {
    /// 1, what every client knows.
    Md5,
    /// 2
    Sha256,
}

impl PasswordAlgorithm {
    /// Its number. Neither has parameters.
    pub fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }
}

/// A ready HMAC state: the two inner blocks are hashed once, not per message.
#[derive(Debug, Clone)]
pub struct Key {
    hmac: hmac::Key,
    integrity: Integrity,
}

/// The key of long-term credentials as allocations keep it: a ready state is 1.2 kB, and made in less than a microsecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongTermKey {
    /// Made with [`PasswordAlgorithm::Md5`].
    Md5([u8; 16]),
    /// Made with [`PasswordAlgorithm::Sha256`].
    Sha256([u8; 32]),
}

impl LongTermKey {
    /// The hash of `user:realm:password` (RFC 8489 §9.2.2).
    pub fn new(algorithm: PasswordAlgorithm, user: &str, realm: &str, password: &[u8]) -> Self {
        let parts = [user.as_bytes(), b":", realm.as_bytes(), b":", password];
        match algorithm {
            PasswordAlgorithm::Md5 => Self::Md5(
                parts.iter().fold(Md5::new(), |hash, part| hash.chain_update(part)).finalize().into(),
            ),
            PasswordAlgorithm::Sha256 => Self::Sha256(sha256(&parts)),
        }
    }

    /// How it was made.
    pub fn algorithm(&self) -> PasswordAlgorithm {
        match self {
            Self::Md5(_) => PasswordAlgorithm::Md5,
            Self::Sha256(_) => PasswordAlgorithm::Sha256,
        }
    }

    /// Ready to sign and to verify.
    pub fn ready(&self, integrity: Integrity) -> Key {
        match self {
            Self::Md5(key) => Key::new(integrity, key),
            Self::Sha256(key) => Key::new(integrity, key),
        }
    }
}

impl Key {
    fn new(integrity: Integrity, key: &[u8]) -> Self {
        let hash = match integrity {
            Integrity::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Integrity::Sha256 => hmac::HMAC_SHA256,
        };
        Self { hmac: hmac::Key::new(hash, key), integrity }
    }

    /// Long-term credentials as RFC 5389 knew them: an MD5 key for MESSAGE-INTEGRITY.
    pub fn long_term(user: &str, realm: &str, password: &[u8]) -> Self {
        LongTermKey::new(PasswordAlgorithm::Md5, user, realm, password).ready(Integrity::Sha1)
    }

    /// Short-term credentials: the password itself (RFC 8489 §9.1.1), for MESSAGE-INTEGRITY.
    pub fn raw(key: &[u8]) -> Self {
        Self::new(Integrity::Sha1, key)
    }

    /// The same for MESSAGE-INTEGRITY-SHA256.
    pub fn raw_sha256(key: &[u8]) -> Self {
        Self::new(Integrity::Sha256, key)
    }

    /// What it signs with.
    pub fn integrity(&self) -> Integrity {
        self.integrity
    }

    /// HMAC of the parts in a row.
    pub fn sign(&self, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.hmac);
        parts.iter().for_each(|part| context.update(part));
        context.sign()
    }
}

/// USERHASH of a user name, which does not tell it to who reads along (RFC 8489 §14.4).
pub fn userhash(user: &str, realm: &str) -> [u8; USERHASH_BYTES] {
    sha256(&[user.as_bytes(), b":", realm.as_bytes()])
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Compares without telling by time where the difference is.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Whether the integrity attribute at offset `at` of a well-formed message is right; it is of the key's kind.
pub(super) fn holds(message: &[u8], at: usize, key: &Key) -> bool {
    let end = at + key.integrity.bytes();
    let Some(attribute) = message.get(at..end) else { return false };
    let (head, tag) = attribute.split_at(ATTRIBUTE_HEADER_BYTES);
    if usize::from(u16::from_be_bytes([head[2], head[3]])) != key.integrity.value_bytes() {
        return false;
    }
    let length = ((end - HEADER_BYTES) as u16).to_be_bytes();
    same(key.sign(&[&message[..2], &length, &message[4..at]]).as_ref(), tag)
}

/// Whether the FINGERPRINT at offset `at`, the message's last attribute, is right.
pub(super) fn fingerprint_holds(message: &[u8], at: usize) -> bool {
    message[at + 4..] == fingerprint_of(&message[..at]).to_be_bytes()
}

/// FINGERPRINT of a message up to, and without, the attribute; its header's length already counts the attribute.
pub(super) fn fingerprint_of(message: &[u8]) -> u32 {
    crc32fast::hash(message) ^ FINGERPRINT_XOR
}
