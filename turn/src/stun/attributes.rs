//! The attribute types that this server knows, XOR addresses and error codes (RFC 8489 §14, RFC 8656 §18).

use std::net::{IpAddr, SocketAddr};

use super::header::{MAGIC_COOKIE, TransactionId};

/// An attribute type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub u16);

impl Kind {
    /// MAPPED-ADDRESS
    pub const MAPPED_ADDRESS: Self = Self(0x0001);
    /// USERNAME
    pub const USERNAME: Self = Self(0x0006);
    /// MESSAGE-INTEGRITY
    pub const MESSAGE_INTEGRITY: Self = Self(0x0008);
    /// ERROR-CODE
    pub const ERROR_CODE: Self = Self(0x0009);
    /// UNKNOWN-ATTRIBUTES
    pub const UNKNOWN_ATTRIBUTES: Self = Self(0x000A);
    /// CHANGE-REQUEST (RFC 5780)
    pub const CHANGE_REQUEST: Self = Self(0x0003);
    /// CHANNEL-NUMBER
    pub const CHANNEL_NUMBER: Self = Self(0x000C);
    /// LIFETIME, seconds
    pub const LIFETIME: Self = Self(0x000D);
    /// XOR-PEER-ADDRESS
    pub const XOR_PEER_ADDRESS: Self = Self(0x0012);
    /// DATA
    pub const DATA: Self = Self(0x0013);
    /// REALM
    pub const REALM: Self = Self(0x0014);
    /// NONCE
    pub const NONCE: Self = Self(0x0015);
    /// XOR-RELAYED-ADDRESS
    pub const XOR_RELAYED_ADDRESS: Self = Self(0x0016);
    /// REQUESTED-ADDRESS-FAMILY
    pub const REQUESTED_ADDRESS_FAMILY: Self = Self(0x0017);
    /// EVEN-PORT
    pub const EVEN_PORT: Self = Self(0x0018);
    /// REQUESTED-TRANSPORT
    pub const REQUESTED_TRANSPORT: Self = Self(0x0019);
    /// DONT-FRAGMENT
    pub const DONT_FRAGMENT: Self = Self(0x001A);
    /// MESSAGE-INTEGRITY-SHA256
    pub const MESSAGE_INTEGRITY_SHA256: Self = Self(0x001C);
    /// PASSWORD-ALGORITHM
    pub const PASSWORD_ALGORITHM: Self = Self(0x001D);
    /// USERHASH
    pub const USERHASH: Self = Self(0x001E);
    /// XOR-MAPPED-ADDRESS
    pub const XOR_MAPPED_ADDRESS: Self = Self(0x0020);
    /// RESERVATION-TOKEN
    pub const RESERVATION_TOKEN: Self = Self(0x0022);
    /// CONNECTION-ID
    pub const CONNECTION_ID: Self = Self(0x002A);
    /// ADDITIONAL-ADDRESS-FAMILY
    pub const ADDITIONAL_ADDRESS_FAMILY: Self = Self(0x8000);
    /// The same in coturn, from a draft of what became RFC 8656.
    pub const ADDITIONAL_ADDRESS_FAMILY_COTURN: Self = Self(0x8032);
    /// ADDRESS-ERROR-CODE
    pub const ADDRESS_ERROR_CODE: Self = Self(0x8001);
    /// PADDING (RFC 5780)
    pub const PADDING: Self = Self(0x0026);
    /// RESPONSE-PORT (RFC 5780)
    pub const RESPONSE_PORT: Self = Self(0x0027);
    /// RESPONSE-ORIGIN (RFC 5780)
    pub const RESPONSE_ORIGIN: Self = Self(0x802B);
    /// OTHER-ADDRESS (RFC 5780)
    pub const OTHER_ADDRESS: Self = Self(0x802C);
    /// PASSWORD-ALGORITHMS
    pub const PASSWORD_ALGORITHMS: Self = Self(0x8002);
    /// ICMP
    pub const ICMP: Self = Self(0x8004);
    /// SOFTWARE
    pub const SOFTWARE: Self = Self(0x8022);
    /// ALTERNATE-SERVER
    pub const ALTERNATE_SERVER: Self = Self(0x8023);
    /// FINGERPRINT
    pub const FINGERPRINT: Self = Self(0x8028);

    /// Whether a receiver that does not know it must refuse (RFC 8489 §14).
    pub fn is_comprehension_required(self) -> bool {
        self.0 < 0x8000
    }

    /// Whether this server knows it. DONT-FRAGMENT asks for nothing more: every relay socket sets DF (`common::net`). That
    /// is so without the attribute as well, where RFC 8656 §14 would clear it: path MTU discovery is the endpoints'.
    pub fn is_known(self) -> bool {
        matches!(
            self,
            Self::MAPPED_ADDRESS
                | Self::USERNAME
                | Self::MESSAGE_INTEGRITY
                | Self::ERROR_CODE
                | Self::UNKNOWN_ATTRIBUTES
                | Self::CHANNEL_NUMBER
                | Self::LIFETIME
                | Self::XOR_PEER_ADDRESS
                | Self::DATA
                | Self::REALM
                | Self::NONCE
                | Self::XOR_RELAYED_ADDRESS
                | Self::REQUESTED_ADDRESS_FAMILY
                | Self::EVEN_PORT
                | Self::REQUESTED_TRANSPORT
                | Self::DONT_FRAGMENT
                | Self::MESSAGE_INTEGRITY_SHA256
                | Self::PASSWORD_ALGORITHM
                | Self::USERHASH
                | Self::XOR_MAPPED_ADDRESS
                | Self::RESERVATION_TOKEN
                | Self::CONNECTION_ID
                | Self::FINGERPRINT
        )
    }
}

/// ERROR-CODE's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// 300
    pub const TRY_ALTERNATE: Self = Self(300);
    /// 400
    pub const BAD_REQUEST: Self = Self(400);
    /// 401
    pub const UNAUTHENTICATED: Self = Self(401);
    /// 403
    pub const FORBIDDEN: Self = Self(403);
    /// 420
    pub const UNKNOWN_ATTRIBUTE: Self = Self(420);
    /// 437
    pub const ALLOCATION_MISMATCH: Self = Self(437);
    /// 438
    pub const STALE_NONCE: Self = Self(438);
    /// 440
    pub const ADDRESS_FAMILY_NOT_SUPPORTED: Self = Self(440);
    /// 441
    pub const WRONG_CREDENTIALS: Self = Self(441);
    /// 442
    pub const UNSUPPORTED_TRANSPORT: Self = Self(442);
    /// 443
    pub const PEER_ADDRESS_FAMILY_MISMATCH: Self = Self(443);
    /// 446
    pub const CONNECTION_ALREADY_EXISTS: Self = Self(446);
    /// 447
    pub const CONNECTION_TIMEOUT_OR_FAILURE: Self = Self(447);
    /// 486
    pub const ALLOCATION_QUOTA_REACHED: Self = Self(486);
    /// 508
    pub const INSUFFICIENT_CAPACITY: Self = Self(508);

    /// The recommended words (RFC 8489 §14.8, RFC 8656 §19, RFC 6062 §6.3).
    pub fn reason(self) -> &'static str {
        match self.0 {
            300 => "Try Alternate",
            400 => "Bad Request",
            401 => "Unauthenticated",
            403 => "Forbidden",
            420 => "Unknown Attribute",
            437 => "Allocation Mismatch",
            438 => "Stale Nonce",
            440 => "Address Family not Supported",
            441 => "Wrong Credentials",
            442 => "Unsupported Transport Protocol",
            443 => "Peer Address Family Mismatch",
            446 => "Connection Already Exists",
            447 => "Connection Timeout or Failure",
            486 => "Allocation Quota Reached",
            508 => "Insufficient Capacity",
            _ => "",
        }
    }
}

/// An IPv6 address attribute's value.
pub const ADDRESS_BYTES_MAX: usize = 20;

/// Reads an XOR address value (RFC 8489 §14.2).
pub fn read_xor_address(value: &[u8], transaction_id: TransactionId) -> Option<SocketAddr> {
    let (&[_, family, p0, p1], rest) = value.split_first_chunk()?;
    let port = u16::from_be_bytes([p0, p1]) ^ (MAGIC_COOKIE >> 16) as u16;
    let mask = xor_mask(transaction_id);
    let ip = match family {
        1 => {
            let mut octets: [u8; 4] = rest.try_into().ok()?;
            octets.iter_mut().zip(mask).for_each(|(octet, m)| *octet ^= m);
            IpAddr::from(octets)
        }
        2 => {
            let mut octets: [u8; 16] = rest.try_into().ok()?;
            octets.iter_mut().zip(mask).for_each(|(octet, m)| *octet ^= m);
            IpAddr::from(octets)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Writes an XOR address value; how many bytes it took (8 or 20).
pub fn write_xor_address(
    into: &mut [u8; ADDRESS_BYTES_MAX],
    address: SocketAddr,
    transaction_id: TransactionId,
) -> usize {
    let length = write_address(into, address);
    into[2..4].iter_mut().zip(MAGIC_COOKIE.to_be_bytes()).for_each(|(octet, m)| *octet ^= m);
    into[4..length].iter_mut().zip(xor_mask(transaction_id)).for_each(|(octet, m)| *octet ^= m);
    length
}

/// Writes an address value as it is (RFC 8489 §14.1); how many bytes it took (8 or 20).
pub fn write_address(into: &mut [u8; ADDRESS_BYTES_MAX], address: SocketAddr) -> usize {
    into[0] = 0;
    into[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            into[1] = 1;
            into[4..8].copy_from_slice(&ip.octets());
            8
        }
        IpAddr::V6(ip) => {
            into[1] = 2;
            into[4..20].copy_from_slice(&ip.octets());
            20
        }
    }
}

fn xor_mask(transaction_id: TransactionId) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&transaction_id.0);
    mask
}
