//! The 20 bytes that every STUN message begins with (RFC 8489 §5).
//!
//! ```text
//!  0                   1                   2                   3
//! |0 0| message type: M M M M M C M M M C M M M M |  message length (after the header)  |
//! |                 magic cookie 0x2112A442                                             |
//! |                 transaction id, 96 bits                                             |
//! ```

use super::ParseError;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 20;

/// RFC 8489 §5.
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// What joins an answer to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

/// The two class bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// A good answer.
    Success,
    /// A bad answer.
    Error,
}

/// The twelve method bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method(pub u16);

impl Method {
    /// RFC 8489 §18.2.
    pub const BINDING: Self = Self(0x001);
    /// RFC 8656 §17, as all that follow.
    pub const ALLOCATE: Self = Self(0x003);
    /// Keep or delete an allocation.
    pub const REFRESH: Self = Self(0x004);
    /// Client to peer, an indication.
    pub const SEND: Self = Self(0x006);
    /// Peer to client, an indication.
    pub const DATA: Self = Self(0x007);
    /// Let a peer's address in.
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// Give a peer a channel number.
    pub const CHANNEL_BIND: Self = Self(0x009);
    /// Connect to a peer (RFC 6062 §6.1, as all that follow).
    pub const CONNECT: Self = Self(0x00A);
    /// Make a connection of the client one with a peer's.
    pub const CONNECTION_BIND: Self = Self(0x00B);
    /// A peer has connected, an indication.
    pub const CONNECTION_ATTEMPT: Self = Self(0x00C);
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Class bits.
    pub class: Class,
    /// Method bits.
    pub method: Method,
    /// Bytes after the header.
    pub length: usize,
    /// Transaction id.
    pub transaction_id: TransactionId,
}

impl Header {
    /// Reads the header at the start of `bytes`; what follows may be incomplete.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let head: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(ParseError::Length)?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let cookie = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        if kind & 0xC000 != 0 || cookie != MAGIC_COOKIE {
            return Err(ParseError::NotStun);
        }
        let class = match (kind >> 7 & 2) | (kind >> 4 & 1) {
            0 => Class::Request,
            1 => Class::Indication,
            2 => Class::Success,
            _ => Class::Error,
        };
        let mut transaction_id = [0; 12];
        transaction_id.copy_from_slice(&head[8..]);
        Ok(Self {
            class,
            method: Method((kind & 0x000F) | (kind >> 1 & 0x0070) | (kind >> 2 & 0x0F80)),
            length: usize::from(u16::from_be_bytes([head[2], head[3]])),
            transaction_id: TransactionId(transaction_id),
        })
    }

    /// The header as it goes on the wire.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let class = match self.class {
            Class::Request => 0x0000,
            Class::Indication => 0x0010,
            Class::Success => 0x0100,
            Class::Error => 0x0110,
        };
        let m = self.method.0;
        let kind = class | (m & 0x000F) | (m & 0x0070) << 1 | (m & 0x0F80) << 2;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..2].copy_from_slice(&kind.to_be_bytes());
        bytes[2..4].copy_from_slice(&(self.length as u16).to_be_bytes());
        bytes[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        bytes[8..].copy_from_slice(&self.transaction_id.0);
        bytes
    }
}
