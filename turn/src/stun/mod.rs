//! STUN messages, read where they lie and written into one buffer.
//!
//! [`header`] is the 20-byte start of every message, [`attributes`] the values behind it, [`integrity`] the three check
//! values. Reading is total: any bytes give a [`Message`] or a [`ParseError`]. RFC 8489 (and RFC 5389 clients).

pub mod attributes;
pub mod header;
pub mod integrity;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use attributes::Kind;
use header::{Class, HEADER_BYTES, Header, Method, TransactionId};
use integrity::{Integrity, Key};

/// Why bytes are no STUN message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than a header, or not the length that the header says.
    #[error("wrong length")]
    Length,
    /// The first two bits or the magic cookie are not STUN's.
    #[error("not STUN")]
    NotStun,
    /// An attribute runs over the end.
    #[error("attribute runs over the end")]
    Attribute,
    /// More attributes than any honest message has.
    #[error("too many attributes")]
    TooMany,
}

/// More attributes than this in one message are nobody's; bounds the work of one datagram.
const ATTRIBUTES_MAX: usize = 64;

/// A well-formed message, borrowed from the buffer that it arrived in.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    header: Header,
    integrity_at: Option<usize>,
    integrity_sha256_at: Option<usize>,
    fingerprint_at: Option<usize>,
}

impl<'a> Message<'a> {
    /// Reads a datagram, or one framed message of a stream.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = Header::parse(bytes)?;
        if header.length % 4 != 0 || header.length != bytes.len() - HEADER_BYTES {
            return Err(ParseError::Length);
        }
        let mut message =
            Self { bytes, header, integrity_at: None, integrity_sha256_at: None, fingerprint_at: None };
        let mut at = HEADER_BYTES;
        let mut count = 0;
        while at < bytes.len() {
            let (kind, value) = tlv(bytes, at).ok_or(ParseError::Attribute)?;
            let next = at + 4 + value.len().next_multiple_of(4);
            if next > bytes.len() {
                return Err(ParseError::Attribute);
            }
            count += 1;
            if count > ATTRIBUTES_MAX {
                return Err(ParseError::TooMany);
            }
            let signed = message.integrity_sha256_at.is_some(); // nothing but FINGERPRINT counts behind it
            if kind == Kind::MESSAGE_INTEGRITY && message.integrity_at.is_none() && !signed {
                message.integrity_at = Some(at);
            }
            if kind == Kind::MESSAGE_INTEGRITY_SHA256 && !signed {
                message.integrity_sha256_at = Some(at);
            }
            if kind == Kind::FINGERPRINT && next == bytes.len() {
                message.fingerprint_at = Some(at);
            }
            at = next;
        }
        Ok(message)
    }

    /// Request, indication, success or error.
    pub fn class(&self) -> Class {
        self.header.class
    }

    /// Bytes of the whole message.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What is asked for.
    pub fn method(&self) -> Method {
        self.header.method
    }

    /// What joins an answer to its request.
    pub fn transaction_id(&self) -> TransactionId {
        self.header.transaction_id
    }

    /// The attributes that count: those behind the first integrity are nobody's (RFC 8489 §14.5, §14.6) and not listed.
    pub fn attributes(&self) -> Attributes<'a> {
        let end = match self.integrity_at.or(self.integrity_sha256_at) {
            Some(at) => at + 4 + tlv(self.bytes, at).map_or(0, |(_, value)| value.len().next_multiple_of(4)),
            None => self.bytes.len(),
        };
        Attributes { bytes: &self.bytes[..end.min(self.bytes.len())], at: HEADER_BYTES }
    }

    /// The first attribute of this kind (RFC 8489 §14: later ones may be ignored).
    pub fn attribute(&self, wanted: Kind) -> Option<&'a [u8]> {
        self.attributes().find(|a| a.kind == wanted).map(|a| a.value)
    }

    /// A text attribute. Text that is not UTF-8 is as good as absent.
    pub fn text(&self, wanted: Kind) -> Option<&'a str> {
        std::str::from_utf8(self.attribute(wanted)?).ok()
    }

    /// A 32-bit attribute.
    pub fn number(&self, wanted: Kind) -> Option<u32> {
        Some(u32::from_be_bytes(self.attribute(wanted)?.try_into().ok()?))
    }

    /// The first XOR address of this kind.
    pub fn xor_address(&self, wanted: Kind) -> Option<SocketAddr> {
        attributes::read_xor_address(self.attribute(wanted)?, self.transaction_id())
    }

    /// Whether the message carries MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256.
    pub fn has_integrity(&self) -> bool {
        self.integrity().is_some()
    }

    /// Whether the message carries MESSAGE-INTEGRITY itself.
    pub fn has_message_integrity(&self) -> bool {
        self.integrity_at.is_some()
    }

    /// The better of the integrities that the message carries.
    pub fn integrity(&self) -> Option<Integrity> {
        match (self.integrity_sha256_at, self.integrity_at) {
            (Some(_), _) => Some(Integrity::Sha256),
            (None, Some(_)) => Some(Integrity::Sha1),
            (None, None) => None,
        }
    }

    /// Whether the integrity that this key is for is there and right, in constant time.
    pub fn integrity_holds(&self, key: &Key) -> bool {
        let at = match key.integrity() {
            Integrity::Sha1 => self.integrity_at,
            Integrity::Sha256 => self.integrity_sha256_at,
        };
        at.is_some_and(|at| integrity::holds(self.bytes, at, key))
    }

    /// `None` without FINGERPRINT, otherwise whether it is right.
    pub fn fingerprint_holds(&self) -> Option<bool> {
        self.fingerprint_at.map(|at| integrity::fingerprint_holds(self.bytes, at))
    }

    /// The range of the value of the first attribute of this kind within the message's bytes.
    pub fn value_range(&self, wanted: Kind) -> Option<std::ops::Range<usize>> {
        let mut attributes = self.attributes();
        loop {
            let at = attributes.at;
            let attribute = attributes.next()?;
            if attribute.kind == wanted {
                return Some(at + 4..at + 4 + attribute.value.len());
            }
        }
    }
}

/// One attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type.
    pub kind: Kind,
    /// Its value, without padding.
    pub value: &'a [u8],
}

/// The attributes of a message in order.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let (kind, value) = tlv(self.bytes, self.at)?;
        self.at += 4 + value.len().next_multiple_of(4);
        Some(Attribute { kind, value })
    }
}

/// Type, length, value at an offset; `None` when it does not fit.
fn tlv(bytes: &[u8], at: usize) -> Option<(Kind, &[u8])> {
    let head = bytes.get(at..at + 4)?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    Some((Kind(u16::from_be_bytes([head[0], head[1]])), bytes.get(at + 4..at + 4 + length)?))
}

/// A message being written.
#[derive(Debug, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
    transaction_id: TransactionId,
}

impl Writer {
    /// Starts with the header.
    pub fn new(class: Class, method: Method, transaction_id: TransactionId) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&Header { class, method, transaction_id, length: 0 }.to_bytes());
        Self { bytes, transaction_id }
    }

    /// Appends an attribute and its padding.
    pub fn attribute(&mut self, kind: Kind, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len()).expect("attributes are written from bounded values");
        self.bytes.extend_from_slice(&kind.0.to_be_bytes());
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.set_length(self.bytes.len());
        self
    }

    /// Appends a 32-bit attribute.
    pub fn number(&mut self, kind: Kind, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends an XOR address.
    pub fn xor_address(&mut self, kind: Kind, address: SocketAddr) -> &mut Self {
        let mut value = [0; attributes::ADDRESS_BYTES_MAX];
        let length = attributes::write_xor_address(&mut value, address, self.transaction_id);
        self.attribute(kind, &value[..length])
    }

    /// Appends an address as it is (ALTERNATE-SERVER, RESPONSE-ORIGIN, OTHER-ADDRESS).
    pub fn address(&mut self, kind: Kind, address: SocketAddr) -> &mut Self {
        let mut value = [0; attributes::ADDRESS_BYTES_MAX];
        let length = attributes::write_address(&mut value, address);
        self.attribute(kind, &value[..length])
    }

    /// Appends ERROR-CODE with its words.
    pub fn error(&mut self, code: attributes::ErrorCode) -> &mut Self {
        self.error_with(code, code.reason())
    }

    /// Appends ERROR-CODE with other words, or none.
    pub fn error_with(&mut self, code: attributes::ErrorCode, reason: &str) -> &mut Self {
        let mut value = vec![0, 0, (code.0 / 100) as u8, (code.0 % 100) as u8];
        value.extend_from_slice(reason.as_bytes());
        self.attribute(Kind::ERROR_CODE, &value)
    }

    /// Appends MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256, whichever the key is for.
    pub fn integrity(&mut self, key: &Key) -> &mut Self {
        self.set_length(self.bytes.len() + key.integrity().bytes());
        let tag = key.sign(&[&self.bytes]);
        self.attribute(key.integrity().kind(), tag.as_ref())
    }

    /// Appends FINGERPRINT; nothing may follow.
    pub fn fingerprint(&mut self) -> &mut Self {
        self.set_length(self.bytes.len() + integrity::FINGERPRINT_BYTES);
        let value = integrity::fingerprint_of(&self.bytes);
        self.number(Kind::FINGERPRINT, value)
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The message.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn set_length(&mut self, total: usize) {
        let length = u16::try_from(total - HEADER_BYTES).expect("a message is written from bounded values");
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
    }
}
