//! STUN Binding (RFC 8489) as ICE uses it: parse and verify requests, write answers.
//!
//! `ice` decides what a request means; nothing else of STUN reaches the media port. Parsing borrows from the datagram
//! and allocates nothing, because anybody on the internet may send these bytes.
//!
//! ```text
//!  0                   1                   2                   3
//! |0 0|  type (14 bit)            |         length                |
//! |                  magic cookie 0x2112A442                      |
//! |                  transaction id (96 bit)                      |
//! |  attribute type               |  length       | value, padded |
//! ```

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::hmac;

/// RFC 8489 §5.
const HEADER_BYTES: usize = 20;
const MAGIC_COOKIE: u32 = 0x2112_A442;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;

/// RFC 8489 §18.3 and RFC 8445 §16.1.
mod attribute {
    pub const USERNAME: u16 = 0x0006;
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub const ERROR_CODE: u16 = 0x0009;
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub const PRIORITY: u16 = 0x0024;
    pub const USE_CANDIDATE: u16 = 0x0025;
    pub const FINGERPRINT: u16 = 0x8028;
    pub const ICE_CONTROLLING: u16 = 0x802A;
}

/// RFC 8489 §14.7: the CRC is XORed with this so that it differs from other CRCs in the same packet.
const FINGERPRINT_XOR: u32 = 0x5354_554E;
const INTEGRITY_BYTES: usize = 20;
/// RFC 8489 §14.3.
const USERNAME_BYTES_MAX: usize = 513;

/// Matches a response to its request.
pub type TransactionId = [u8; 12];

/// A Binding request that is well-formed; its integrity is not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindingRequest<'a> {
    /// Echoed in the answer.
    pub transaction_id: TransactionId,
    /// First half of USERNAME: ours.
    pub local_ufrag: &'a str,
    /// Second half of USERNAME: the sender's.
    pub remote_ufrag: &'a str,
    /// The pair is nominated.
    pub use_candidate: bool,
    /// The sender says that it controls; a client of a lite server must.
    pub controlling: bool,
    /// PRIORITY was there; ICE requires it.
    pub has_priority: bool,
    integrity_offset: usize,
    datagram: &'a [u8],
}

/// Why bytes are not a Binding request. The datagram is dropped and counted under this reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    /// Header or attribute lengths do not add up.
    #[error("malformed STUN message")]
    Malformed,
    /// Another method or class.
    #[error("not a Binding request")]
    NotBindingRequest,
    /// USERNAME, MESSAGE-INTEGRITY or FINGERPRINT is missing.
    #[error("a required attribute is missing")]
    MissingAttribute,
    /// FINGERPRINT does not match.
    #[error("wrong fingerprint")]
    WrongFingerprint,
}

/// Makes the key of short-term credentials (RFC 8489 §9.1.1).
pub fn key(password: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

impl<'a> BindingRequest<'a> {
    /// Parses one datagram.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, StunError> {
        if datagram.len() < HEADER_BYTES
            || datagram.len() != HEADER_BYTES + usize::from(u16_at(datagram, 2))
            || !datagram.len().is_multiple_of(4)
            || datagram[4..8] != MAGIC_COOKIE.to_be_bytes()
        {
            return Err(StunError::Malformed);
        }
        if u16_at(datagram, 0) != BINDING_REQUEST {
            return Err(StunError::NotBindingRequest);
        }
        let mut transaction_id = [0; 12];
        transaction_id.copy_from_slice(&datagram[8..HEADER_BYTES]);
        let mut username = None;
        let mut integrity_offset = None;
        let mut fingerprint_seen = false;
        let (mut use_candidate, mut controlling, mut has_priority) = (false, false, false);

        let mut at = HEADER_BYTES;
        while at < datagram.len() {
            let kind = u16_at(datagram, at);
            let length = usize::from(u16_at(datagram, at + 2));
            let value = datagram.get(at + 4..at + 4 + length).ok_or(StunError::Malformed)?;
            // RFC 8489 §14.5: only FINGERPRINT counts after MESSAGE-INTEGRITY.
            match kind {
                attribute::FINGERPRINT => {
                    let expected = crc32fast::hash(&datagram[..at]) ^ FINGERPRINT_XOR;
                    if value != expected.to_be_bytes() || at + 8 != datagram.len() {
                        return Err(StunError::WrongFingerprint);
                    }
                    fingerprint_seen = true;
                }
                _ if integrity_offset.is_some() => {}
                attribute::USERNAME if length <= USERNAME_BYTES_MAX => {
                    username = std::str::from_utf8(value).ok().and_then(|name| name.split_once(':'));
                }
                attribute::MESSAGE_INTEGRITY if length != INTEGRITY_BYTES => {
                    return Err(StunError::Malformed);
                }
                attribute::MESSAGE_INTEGRITY => integrity_offset = Some(at),
                attribute::PRIORITY => has_priority = length == 4,
                attribute::USE_CANDIDATE => use_candidate = true,
                attribute::ICE_CONTROLLING => controlling = true,
                _ => {}
            }
            at += 4 + length.next_multiple_of(4);
        }
        match (username, integrity_offset, fingerprint_seen) {
            (Some((local_ufrag, remote_ufrag)), Some(integrity_offset), true) => Ok(Self {
                transaction_id,
                local_ufrag,
                remote_ufrag,
                use_candidate,
                controlling,
                has_priority,
                integrity_offset,
                datagram,
            }),
            _ => Err(StunError::MissingAttribute),
        }
    }

    /// Whether MESSAGE-INTEGRITY was made with the password of `key`.
    pub fn verify(&self, key: &hmac::Key) -> bool {
        let at = self.integrity_offset;
        let mut context = hmac::Context::with_key(key);
        context.update(&self.datagram[..2]);
        context.update(&integrity_length(at));
        context.update(&self.datagram[4..at]);
        let tag = context.sign();
        let given = &self.datagram[at + 4..at + 4 + INTEGRITY_BYTES];
        aws_lc_rs::constant_time::verify_slices_are_equal(tag.as_ref(), given).is_ok()
    }
}

/// RFC 8489 §14.5: the length field counts up to and including MESSAGE-INTEGRITY while its HMAC is computed.
fn integrity_length(offset: usize) -> [u8; 2] {
    ((offset + 4 + INTEGRITY_BYTES - HEADER_BYTES) as u16).to_be_bytes()
}

/// Writes messages of at most a few hundred bytes, so no length can overflow its field.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut Vec<u8>, kind: u16, transaction_id: &TransactionId) -> Self {
        let start = out.len();
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        out.extend_from_slice(transaction_id);
        Self { out, start }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        self.out.extend_from_slice(value);
        self.out.resize(self.out.len() + (value.len().next_multiple_of(4) - value.len()), 0);
    }

    fn set_length(&mut self, length: usize) {
        self.out[self.start + 2..self.start + 4].copy_from_slice(&(length as u16).to_be_bytes());
    }

    fn finish(mut self, key: Option<&hmac::Key>) {
        let body = |writer: &Self| writer.out.len() - writer.start - HEADER_BYTES;
        if let Some(key) = key {
            let length = body(&self) + 4 + INTEGRITY_BYTES;
            self.set_length(length);
            let tag = hmac::sign(key, &self.out[self.start..]);
            self.attribute(attribute::MESSAGE_INTEGRITY, tag.as_ref());
        }
        let length = body(&self) + 8;
        self.set_length(length);
        let crc = crc32fast::hash(&self.out[self.start..]) ^ FINGERPRINT_XOR;
        self.attribute(attribute::FINGERPRINT, &crc.to_be_bytes());
    }
}

/// Appends a success response that tells the sender its address.
pub fn write_success(out: &mut Vec<u8>, transaction_id: &TransactionId, mapped: SocketAddr, key: &hmac::Key) {
    let mut value = [0u8; 20];
    let port = mapped.port() ^ (MAGIC_COOKIE >> 16) as u16;
    value[2..4].copy_from_slice(&port.to_be_bytes());
    let mut mask = [0u8; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(transaction_id);
    let length = match mapped.ip() {
        IpAddr::V4(ip) => {
            value[1] = 1;
            value[4..8].copy_from_slice(&ip.octets());
            8
        }
        IpAddr::V6(ip) => {
            value[1] = 2;
            value[4..20].copy_from_slice(&ip.octets());
            20
        }
    };
    value[4..length].iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    let mut writer = Writer::new(out, BINDING_SUCCESS, transaction_id);
    writer.attribute(attribute::XOR_MAPPED_ADDRESS, &value[..length]);
    writer.finish(Some(key));
}

/// Appends an error response, for example 400, 401 or 487. Without `key` it carries no integrity (RFC 8489 §9.1.3).
pub fn write_error(out: &mut Vec<u8>, transaction_id: &TransactionId, code: u16, key: Option<&hmac::Key>) {
    let mut writer = Writer::new(out, BINDING_ERROR, transaction_id);
    writer.attribute(attribute::ERROR_CODE, &[0, 0, (code / 100) as u8, (code % 100) as u8]);
    writer.finish(key);
}

/// Appends a nominating request from the controlling side, as a client sends it.
pub fn write_request(out: &mut Vec<u8>, transaction_id: &TransactionId, username: &str, key: &hmac::Key) {
    let mut writer = Writer::new(out, BINDING_REQUEST, transaction_id);
    writer.attribute(attribute::USERNAME, username.as_bytes());
    // RFC 8445 §5.1.2.1: a peer-reflexive candidate of component 1.
    writer.attribute(attribute::PRIORITY, &((110u32 << 24) | (65535 << 8) | 255).to_be_bytes());
    // The tie breaker is zero: whoever answers is controlled, and a lite agent never argues.
    writer.attribute(attribute::ICE_CONTROLLING, &[0; 8]);
    writer.attribute(attribute::USE_CANDIDATE, &[]);
    writer.finish(Some(key));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 §2.1, the sample request with short-term credentials.
    const SAMPLE: &[u8] = &[
        0x00, 0x01, 0x00, 0x58, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa,
        0x87, 0xdf, 0xae, 0x80, 0x22, 0x00, 0x10, 0x53, 0x54, 0x55, 0x4e, 0x20, 0x74, 0x65, 0x73, 0x74, 0x20,
        0x63, 0x6c, 0x69, 0x65, 0x6e, 0x74, 0x00, 0x24, 0x00, 0x04, 0x6e, 0x00, 0x01, 0xff, 0x80, 0x29, 0x00,
        0x08, 0x93, 0x2f, 0xf9, 0xb1, 0x51, 0x26, 0x3b, 0x36, 0x00, 0x06, 0x00, 0x09, 0x65, 0x76, 0x74, 0x6a,
        0x3a, 0x68, 0x36, 0x76, 0x59, 0x20, 0x20, 0x20, 0x00, 0x08, 0x00, 0x14, 0x9a, 0xea, 0xa7, 0x0c, 0xbf,
        0xd8, 0xcb, 0x56, 0x78, 0x1e, 0xf2, 0xb5, 0xb2, 0xd3, 0xf2, 0x49, 0xc1, 0xb5, 0x71, 0xa2, 0x80, 0x28,
        0x00, 0x04, 0xe5, 0x7a, 0x3b, 0xcf,
    ];

    #[test]
    fn the_sample_of_rfc_5769_verifies() {
        let request = BindingRequest::parse(SAMPLE).expect("well-formed");
        assert_eq!((request.local_ufrag, request.remote_ufrag), ("evtj", "h6vY"));
        assert!(request.has_priority && !request.use_candidate && !request.controlling);
        assert!(request.verify(&key("VOkJxbRl1RmTxUk/WvJxBt")));
        assert!(!request.verify(&key("another password")));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = vec![0xff];
        write_request(&mut out, &[7; 12], "server:client", &key("secret"));
        let request = BindingRequest::parse(&out[1..]).expect("well-formed");
        assert_eq!((request.local_ufrag, request.remote_ufrag), ("server", "client"));
        assert!(request.use_candidate && request.controlling && request.verify(&key("secret")));
    }

    #[test]
    fn no_mutilated_request_is_accepted() {
        for cut in 0..SAMPLE.len() {
            assert!(BindingRequest::parse(&SAMPLE[..cut]).is_err());
        }
        for at in 0..SAMPLE.len() {
            let mut bytes = SAMPLE.to_vec();
            bytes[at] ^= 0x40;
            assert!(BindingRequest::parse(&bytes).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_integrity_of_another_length_is_not_passed_over() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, BINDING_REQUEST, &[7; 12]);
        writer.attribute(attribute::USERNAME, b"server:client");
        writer.attribute(attribute::MESSAGE_INTEGRITY, &[0; 4]);
        writer.finish(Some(&key("secret")));
        assert_eq!(BindingRequest::parse(&out), Err(StunError::Malformed));
    }

    #[test]
    fn str0m_reads_our_answers() {
        let mapped = "[2001:db8::1]:4000".parse().expect("an address");
        let mut out = Vec::new();
        write_success(&mut out, &[9; 12], mapped, &key("secret"));
        let message = str0m::ice::StunMessage::parse(&out).expect("well-formed");
        assert_eq!(message.mapped_address(), Some(mapped));
        out.clear();
        write_error(&mut out, &[9; 12], 487, None);
        assert!(str0m::ice::StunMessage::parse(&out).expect("well-formed").is_failed_binding_response());
    }
}
