//! STUN and TURN attributes at the relay: ours against str0m's, and what is read is the same when it is written again.

use std::net::SocketAddr;

use aws_lc_rs::hmac;
use str0m::ice::StunMessage;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method};
use turn::stun::integrity::Key;
use turn::stun::{Message, Writer};

use crate::bytes::Bytes;

/// Of the messages that [`message`] signs.
pub const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

/// The first byte says how much is made right, because no fuzzer guesses a checksum: 1 the header, 2 MESSAGE-INTEGRITY,
/// 4 FINGERPRINT. What follows is the datagram, or the type, transaction id and attributes of one.
pub fn message(data: &[u8]) -> Vec<u8> {
    let mut bytes = Bytes(data);
    let made_right = bytes.byte();
    if made_right & 1 == 0 {
        return bytes.rest().to_vec();
    }
    let mut out = (bytes.u16() & 0x3fff).to_be_bytes().to_vec();
    out.extend_from_slice(&[0, 0, 0x21, 0x12, 0xa4, 0x42]);
    out.extend_from_slice(bytes.take(12));
    out.resize(20, 0);
    let attributes = bytes.rest();
    out.extend_from_slice(&attributes[..attributes.len().min(4000) / 4 * 4]);
    let sum = |out: &mut Vec<u8>, kind: u16, value: &dyn Fn(&[u8]) -> Vec<u8>, bytes: u16| {
        let length = out.len() as u16 - 20 + 4 + bytes;
        out[2..4].copy_from_slice(&length.to_be_bytes());
        let value = value(out);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&bytes.to_be_bytes());
        out.extend_from_slice(&value);
    };
    if made_right & 2 != 0 {
        sum(&mut out, 8, &|out| hmac_sha1(PASSWORD.as_bytes(), &[out]).to_vec(), 20);
    }
    if made_right & 4 != 0 {
        sum(&mut out, 0x8028, &|out| (crc32fast::hash(out) ^ 0x5354_554e).to_be_bytes().to_vec(), 4);
    }
    let length = out.len() as u16 - 20;
    out[2..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// As str0m wants it.
pub fn hmac_sha1(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key));
    parts.iter().for_each(|part| context.update(part));
    context.sign().as_ref().try_into().expect("SHA-1 has 20 bytes")
}

/// See [`message`].
pub fn run(data: &[u8]) {
    let datagram = message(data);
    let Ok(ours) = Message::parse(&datagram) else { return };
    let attributes: Vec<_> = ours.attributes().collect();
    assert!(attributes.len() <= 64);
    for attribute in &attributes {
        let range = ours.value_range(attribute.kind).expect("it is there");
        assert_eq!(ours.attribute(attribute.kind), Some(&datagram[range]));
    }
    compare(&datagram, &ours);
    again(&ours);
}

/// Where we find a value and the message has it once: which of several counts is left open by RFC 8489 §14, and str0m
/// reads addresses that are shorter than their family's.
fn compare(datagram: &[u8], ours: &Message<'_>) {
    let Ok(theirs) = StunMessage::parse(datagram) else { return };
    if ours.has_message_integrity() {
        let verdict = ours.integrity_holds(&Key::raw(PASSWORD.as_bytes()));
        return assert_eq!(verdict, theirs.verify(PASSWORD.as_bytes(), hmac_sha1));
    }
    // What is behind it counts for nothing (RFC 8489 §14.6); str0m does not know it and reads on.
    if ours.attribute(Kind::MESSAGE_INTEGRITY_SHA256).is_some() {
        return;
    }
    let once = |kind: Kind| ours.attributes().filter(|attribute| attribute.kind == kind).count() == 1;
    let lifetime = ours.number(Kind::LIFETIME).filter(|_| once(Kind::LIFETIME));
    assert!(lifetime.is_none() || lifetime == theirs.lifetime());
    let data = ours.attribute(Kind::DATA).filter(|_| once(Kind::DATA));
    assert!(data.is_none() || data == theirs.data());
    for (kind, address) in [
        (Kind::XOR_PEER_ADDRESS, theirs.xor_peer_address()),
        (Kind::XOR_RELAYED_ADDRESS, theirs.xor_relayed_address()),
    ] {
        let found = ours.xor_address(kind).filter(|_| once(kind));
        assert!(found.is_none() || found == address, "{kind:?}: {found:?}, {address:?}");
    }
}

/// Writes the attributes up to the integrity once more.
fn again(ours: &Message<'_>) {
    let key = Key::raw(b"another");
    let integrity = [Kind::MESSAGE_INTEGRITY, Kind::MESSAGE_INTEGRITY_SHA256];
    let plain = || ours.attributes().filter(|attribute| !integrity.contains(&attribute.kind));
    let mut writer = Writer::new(ours.class(), ours.method(), ours.transaction_id());
    for attribute in plain() {
        writer.attribute(attribute.kind, attribute.value);
    }
    if plain().count() > 62 || plain().any(|attribute| attribute.kind == Kind::FINGERPRINT) {
        return;
    }
    writer.integrity(&key).fingerprint();
    let bytes = writer.finish();
    let read = Message::parse(&bytes).expect("what we write is well-formed");
    assert!(read.integrity_holds(&key) && read.fingerprint_holds() == Some(true));
    assert_eq!((read.class(), read.method()), (ours.class(), ours.method()));
    assert!(read.attributes().take(plain().count()).eq(plain()));
    for kind in [Kind::XOR_PEER_ADDRESS, Kind::XOR_MAPPED_ADDRESS] {
        if let Some(address) = ours.xor_address(kind) {
            assert_eq!(rewritten(ours, kind, address), Some(address));
        }
    }
}

fn rewritten(ours: &Message<'_>, kind: Kind, address: SocketAddr) -> Option<SocketAddr> {
    let mut writer = Writer::new(Class::Success, Method::ALLOCATE, ours.transaction_id());
    writer.xor_address(kind, address);
    Message::parse(&writer.finish()).ok()?.xor_address(kind)
}

/// RFC 5769 §2.1 as it is, a TURN request and an ICE check that are put together.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut ice = vec![7, 0, 1];
    ice.extend_from_slice(&[9; 12]);
    ice.extend_from_slice(
        b"\0\x06\0\x09evtj:h6vY\0\0\0\0\x24\0\x04\x6e\0\x01\xff\x80\x2a\0\x08\0\0\0\0\0\0\0\0\0\x25\0\0",
    );
    let mut allocate = vec![3, 0, 3];
    allocate.extend_from_slice(&[8; 12]);
    allocate.extend_from_slice(
        b"\0\x19\0\x04\x11\0\0\0\0\x06\0\x04user\0\x14\0\x04test\0\x15\0\x04once\0\x0d\0\x04\0\0\x02\x58",
    );
    let mut bind = vec![1, 0, 9];
    bind.extend_from_slice(&[7; 12]);
    bind.extend_from_slice(b"\0\x0c\0\x04\x40\x01\0\0\0\x12\0\x08\0\x01\x21\x12\x5e\x12\xa4\x43");
    let mut send = vec![1, 0, 0x16];
    send.extend_from_slice(&[6; 12]);
    send.extend_from_slice(b"\0\x12\0\x08\0\x01\x21\x12\x5e\x12\xa4\x43\0\x13\0\x02hi\0\0");
    let raw = |seed: &Vec<u8>| [&[0][..], &message(seed)].concat();
    vec![raw(&ice), raw(&allocate), ice, allocate, bind, send]
}
