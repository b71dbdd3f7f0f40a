//! The vectors of RFC 5769 and RFC 8489, and stun-rs as a second opinion.

use super::*;
use crate::stun::attributes::ErrorCode;
use crate::stun::integrity::{LongTermKey, PasswordAlgorithm};
use proptest::prelude::*;
use stun_rs::{DecoderContextBuilder, MessageDecoderBuilder};

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(|c| c.is_ascii_hexdigit()).collect();
    (0..digits.len() / 2).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).expect("hex")).collect()
}

/// RFC 5769 §2.1.
const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74
    002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249
    c1b571a280280004e57a3bcf";
/// RFC 5769 §2.2.
const RESPONSE_V4: &str =
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147
    e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
/// RFC 5769 §2.3.
const RESPONSE_V6: &str =
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a147
    0113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";
/// RFC 5769 §2.4.
const LONG_TERM: &str =
    "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b90000
    0015001c662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b6578616d706c652e6f72670000080014
    f67024656dd64a3e02b8e0712e85c9a28ca89666";

#[test]
fn rfc_5769_messages_hold() {
    let key = Key::raw(b"VOkJxbRl1RmTxUk/WvJxBt");
    for (text, mapped) in [
        (REQUEST, None),
        (RESPONSE_V4, Some("192.0.2.1:32853")),
        (RESPONSE_V6, Some("[2001:db8:1234:5678:11:2233:4455:6677]:32853")),
    ] {
        let bytes = hex(text);
        let message = Message::parse(&bytes).expect("well-formed");
        assert_eq!(message.method(), Method::BINDING);
        assert!(message.integrity_holds(&key));
        assert!(!message.integrity_holds(&Key::raw(b"another")));
        assert_eq!(message.fingerprint_holds(), Some(true));
        let address = message.xor_address(Kind::XOR_MAPPED_ADDRESS);
        assert_eq!(address, mapped.map(|text| text.parse().expect("an address")));
    }
}

#[test]
fn rfc_5769_long_term_credentials_hold() {
    let bytes = hex(LONG_TERM);
    let message = Message::parse(&bytes).expect("well-formed");
    let user = message.text(Kind::USERNAME).expect("UTF-8");
    assert_eq!(user, "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}");
    let realm = message.text(Kind::REALM).expect("UTF-8");
    assert!(message.integrity_holds(&Key::long_term(user, realm, b"TheMatrIX")));
    assert!(!message.integrity_holds(&Key::long_term(user, realm, b"theMatrIX")));
}

/// RFC 8489 Appendix B.1, but for the length in its header, which counts the header too (0x9c for 0x88).
const LONG_TERM_SHA256: &str =
    "0001009c2112a44278ad3433c6ad72c029da412e001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704
    001500296f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c394653547679363473410000000014000b6578616d
    706c652e6f726700001c0020e4686c8f0edeb59013e07090010a93efccbccc544c0a45d9f830aa6d6f735a01";

#[test]
fn rfc_8489_userhash_and_sha256_hold() {
    let user = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
    let key = LongTermKey::new(PasswordAlgorithm::Sha256, user, "example.org", b"TheMatrIX");
    let key = key.ready(Integrity::Sha256);
    let published = hex(LONG_TERM_SHA256);
    assert_eq!(Message::parse(&published).err(), Some(ParseError::Length), "as it is printed");
    let (signed, attribute) = published.split_at(published.len() - Integrity::Sha256.bytes());
    assert_eq!(key.sign(&[signed]).as_ref(), &attribute[4..]);

    let mut writer =
        Writer::new(Class::Request, Method::BINDING, TransactionId(*b"x\xad43\xc6\xadr\xc0)\xdaA."));
    writer
        .attribute(Kind::USERHASH, &integrity::userhash(user, "example.org"))
        .attribute(Kind::NONCE, b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA")
        .attribute(Kind::REALM, b"example.org")
        .integrity(&key);
    let ours = writer.finish();
    assert_eq!((ours[3], &ours[4..120], ours.len()), (0x88, &signed[4..], published.len()));
    let message = Message::parse(&ours).expect("well-formed");
    assert!(message.integrity_holds(&key));
    let with_md5 = LongTermKey::new(PasswordAlgorithm::Md5, user, "example.org", b"TheMatrIX");
    assert!(!message.integrity_holds(&with_md5.ready(Integrity::Sha256)));
}

#[test]
fn a_shortened_sha256_is_refused() {
    let key = Key::raw_sha256(b"k");
    let mut writer = Writer::new(Class::Request, Method::REFRESH, TransactionId([1; 12]));
    writer.integrity(&key);
    let whole = writer.finish();
    assert!(Message::parse(&whole).expect("well-formed").integrity_holds(&key));
    for bytes in [16, 20, 28] {
        // A length in the header that fits the shorter value, and the HMAC that goes with it.
        let mut head = whole[..HEADER_BYTES].to_vec();
        head[3] = 4 + bytes;
        let tag = key.sign(&[&head]);
        head.extend_from_slice(&[0, 0x1c, 0, bytes]);
        head.extend_from_slice(&tag.as_ref()[..usize::from(bytes)]);
        let message = Message::parse(&head).expect("well-formed");
        assert!(message.has_integrity() && !message.integrity_holds(&key), "{bytes} bytes");
    }
}

#[test]
fn of_two_integrities_the_better_one_counts() {
    let (sha1, sha256) = (Key::raw(b"k"), Key::raw_sha256(b"k"));
    let mut both = Writer::new(Class::Request, Method::REFRESH, TransactionId([1; 12]));
    both.number(Kind::LIFETIME, 5).integrity(&sha1).number(Kind::LIFETIME, 6).integrity(&sha256);
    both.number(Kind::LIFETIME, 7).fingerprint();
    let bytes = both.finish();
    let message = Message::parse(&bytes).expect("well-formed");
    assert_eq!(message.integrity(), Some(Integrity::Sha256));
    assert!(message.integrity_holds(&sha1) && message.integrity_holds(&sha256));
    assert_eq!(message.attributes().filter(|a| a.kind == Kind::LIFETIME).count(), 1);

    let mut reversed = Writer::new(Class::Request, Method::REFRESH, TransactionId([1; 12]));
    reversed.integrity(&sha256).integrity(&sha1);
    let bytes = reversed.finish();
    let message = Message::parse(&bytes).expect("well-formed");
    assert!(!message.has_message_integrity() && message.integrity_holds(&sha256));
}

#[test]
fn every_flipped_bit_before_the_integrity_breaks_it() {
    let bytes = hex(LONG_TERM);
    let key = Key::long_term("\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}", "example.org", b"TheMatrIX");
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(!Message::parse(&changed).is_ok_and(|m| m.integrity_holds(&key)), "bit {bit}");
    }
}

#[test]
fn what_follows_the_integrity_is_not_listed() {
    let key = Key::raw(b"k");
    let mut writer = Writer::new(Class::Request, Method::REFRESH, TransactionId([1; 12]));
    writer.integrity(&key).number(Kind::LIFETIME, 0).fingerprint();
    let bytes = writer.finish();
    let message = Message::parse(&bytes).expect("well-formed");
    assert_eq!(message.number(Kind::LIFETIME), None);
    assert!(message.integrity_holds(&key));
    assert_eq!(message.fingerprint_holds(), Some(true));
}

#[test]
fn broken_messages_are_refused() {
    let good = hex(RESPONSE_V4);
    for length in 0..good.len() {
        assert!(Message::parse(&good[..length]).is_err(), "{length} bytes");
    }
    let check = |at: usize, value: u8, expected| {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(Message::parse(&bytes).err(), Some(expected), "byte {at}");
    };
    check(0, 0x81, ParseError::NotStun);
    check(4, 0x20, ParseError::NotStun);
    check(3, 0x3d, ParseError::Length);
    check(23, 0xff, ParseError::Attribute);
    let mut many = Writer::new(Class::Request, Method::BINDING, TransactionId([0; 12]));
    for _ in 0..=ATTRIBUTES_MAX {
        many.attribute(Kind::DATA, b"");
    }
    assert_eq!(Message::parse(&many.finish()).err(), Some(ParseError::TooMany));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), shape in 0..3) {
        if shape > 0 && bytes.len() >= HEADER_BYTES {
            bytes.truncate(bytes.len() / 4 * 4);
            let length = (bytes.len() - HEADER_BYTES) as u16;
            bytes[0] &= 0x3f;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes[4..8].copy_from_slice(&header::MAGIC_COOKIE.to_be_bytes());
        }
        if let Ok(message) = Message::parse(&bytes) {
            let _ = message.attributes().count();
            let _ = message.integrity_holds(&Key::raw(b"k"));
            let _ = message.fingerprint_holds();
            let _ = message.xor_address(Kind::XOR_PEER_ADDRESS);
            let _ = message.value_range(Kind::DATA);
        }
    }

    #[test]
    fn stun_rs_reads_what_we_write(
        id: [u8; 12],
        ip: std::net::IpAddr,
        port: u16,
        lifetime: u32,
        data in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let address = SocketAddr::new(ip, port);
        let mut writer = Writer::new(Class::Error, Method::ALLOCATE, TransactionId(id));
        writer
            .xor_address(Kind::XOR_MAPPED_ADDRESS, address)
            .number(Kind::LIFETIME, lifetime)
            .attribute(Kind::DATA, &data)
            .error(ErrorCode::STALE_NONCE)
            .integrity(&Key::raw(b"secret"))
            .fingerprint();
        let bytes = writer.finish();

        let ours = Message::parse(&bytes).expect("ours");
        prop_assert_eq!(ours.xor_address(Kind::XOR_MAPPED_ADDRESS), Some(address));
        prop_assert_eq!(ours.attribute(Kind::DATA), Some(&data[..]));
        prop_assert!(ours.integrity_holds(&Key::raw(b"secret")));

        let key = stun_rs::HMACKey::new_short_term("secret").expect("a key");
        let context = DecoderContextBuilder::default().with_key(key).with_validation().build();
        let decoder = MessageDecoderBuilder::default().with_context(context).build();
        let (theirs, size) = decoder.decode(&bytes).expect("stun-rs");
        prop_assert_eq!(size, bytes.len());
        prop_assert_eq!(theirs.transaction_id().as_bytes(), &id);
        let mapped = theirs.get::<stun_rs::attributes::stun::XorMappedAddress>().expect("there");
        prop_assert_eq!(mapped.as_xor_mapped_address().expect("typed").socket_address(), &address);
        let error = theirs.get::<stun_rs::attributes::stun::ErrorCode>().expect("there");
        prop_assert_eq!(error.as_error_code().expect("typed").error_code().error_code(), 438);
    }
}
