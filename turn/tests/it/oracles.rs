//! Our reader of STUN against two others, `stun-types` and `stun-rs`, on messages that are made, signed and then damaged.
//!
//! Where they differ on purpose: `stun-types` takes SHA-256 values that are cut short and leaves off at FINGERPRINT, wherever
//! that stands; `stun-rs` decodes values to types and refuses more than the shape.

use proptest::prelude::*;
use stun_types::attribute::Attribute;
use stun_types::message::{Message as TheirMessage, MessageClass, ShortTermCredentials};
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, HEADER_BYTES, Method, TransactionId};
use turn::stun::integrity::{Integrity, Key};
use turn::stun::{Message, Writer};

const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";
const ENDING: [u16; 3] = [0x0008, 0x001c, 0x8028];

/// A message before it is damaged.
#[derive(Debug, Clone)]
struct Plan {
    class: Class,
    method: u16,
    id: [u8; 12],
    values: Vec<(u16, Vec<u8>)>,
    sha1: bool,
    sha256: bool,
    fingerprint: bool,
}

impl Plan {
    fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new(self.class, Method(self.method), TransactionId(self.id));
        for (kind, value) in &self.values {
            writer.attribute(Kind(*kind), value);
        }
        if self.sha1 {
            writer.integrity(&Key::raw(PASSWORD.as_bytes()));
        }
        if self.sha256 {
            writer.integrity(&Key::raw_sha256(PASSWORD.as_bytes()));
        }
        if self.fingerprint {
            writer.fingerprint();
        }
        writer.finish()
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    let known = [
        0x0001u16, 0x0003, 0x0006, 0x0009, 0x000a, 0x000c, 0x000d, 0x0012, 0x0013, 0x0014, 0x0015, 0x0016,
        0x0017, 0x0018, 0x0019, 0x001a, 0x001d, 0x001e, 0x0020, 0x0022, 0x0026, 0x0027, 0x002a, 0x8000,
        0x8002, 0x8022, 0x8023, 0x802b, 0x802c,
    ];
    let kind = prop_oneof![4 => prop::sample::select(known.to_vec()), 1 => any::<u16>()];
    let kind = kind.prop_filter("is written by itself", |kind| !ENDING.contains(kind));
    let value =
        prop_oneof![prop::collection::vec(any::<u8>(), 0..24), Just(vec![0, 1, 0x21, 0x12, 1, 2, 3, 4])];
    let class = prop::sample::select(vec![Class::Request, Class::Indication, Class::Success, Class::Error]);
    let values = prop::collection::vec((kind, value), 0..6);
    (class, 0..0x1000u16, any::<[u8; 12]>(), values, any::<[bool; 3]>()).prop_map(
        |(class, method, id, values, [sha1, sha256, fingerprint])| Plan {
            class,
            method,
            id,
            values,
            sha1,
            sha256,
            fingerprint,
        },
    )
}

/// Bytes that are changed, and how many are cut off or added at the end.
fn damage() -> impl Strategy<Value = (Vec<(prop::sample::Index, u8)>, i8)> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (changes, prop_oneof![8 => Just(0i8), 1 => -9..9i8])
}

fn damaged(plan: &Plan, (changes, tail): &(Vec<(prop::sample::Index, u8)>, i8)) -> Vec<u8> {
    let mut bytes = plan.bytes();
    for (at, value) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    let length = bytes.len().saturating_add_signed(isize::from(*tail));
    bytes.resize(length, 0);
    bytes
}

fn class_of(theirs: &TheirMessage<'_>) -> Class {
    match theirs.class() {
        MessageClass::Request => Class::Request,
        MessageClass::Indication => Class::Indication,
        MessageClass::Success => Class::Success,
        MessageClass::Error => Class::Error,
    }
}

/// What stands before the first attribute that ends a message.
fn before_the_end<'a>(attributes: impl Iterator<Item = (u16, &'a [u8])>) -> Vec<(u16, Vec<u8>)> {
    attributes
        .take_while(|(kind, _)| !ENDING.contains(kind))
        .map(|(kind, value)| (kind, value.to_vec()))
        .collect()
}

fn integrity_holds(ours: &Message<'_>) -> Option<bool> {
    let key = match ours.integrity()? {
        Integrity::Sha1 => Key::raw(PASSWORD.as_bytes()),
        Integrity::Sha256 => Key::raw_sha256(PASSWORD.as_bytes()),
    };
    Some(ours.integrity_holds(&key))
}

/// Whether the integrities and FINGERPRINT stand as RFC 8489 wants them, each once and at the end.
fn is_orderly(bytes: &[u8]) -> bool {
    let mut at = HEADER_BYTES;
    let mut rank = 0;
    while let Some(&[k0, k1, l0, l1]) = bytes.get(at..at + 4) {
        let kind = u16::from_be_bytes([k0, k1]);
        let here = ENDING.iter().position(|ending| *ending == kind).map_or(0, |place| place + 1);
        let whole = here != 2 || [l0, l1] == [0, 32];
        if here < rank || here > 0 && here == rank || !whole {
            return false;
        }
        rank = here;
        at += 4 + usize::from(u16::from_be_bytes([l0, l1])).next_multiple_of(4);
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn stun_types_reads_what_we_read(plan in plan(), damage in damage()) {
        let bytes = damaged(&plan, &damage);
        let (ours, theirs) = (Message::parse(&bytes), TheirMessage::from_bytes(&bytes));
        let Ok(ours) = ours else {
            // They take what has more bytes than its header says; otherwise what we refuse they refuse.
            let whole = bytes.len() >= HEADER_BYTES
                && usize::from(u16::from_be_bytes([bytes[2], bytes[3]])) == bytes.len() - HEADER_BYTES
                && is_orderly(&bytes);
            prop_assert!(theirs.is_err() || !whole, "they read what we refuse: {:02x?}", bytes);
            return Ok(());
        };
        if !is_orderly(&bytes) {
            return Ok(());
        }
        if ours.fingerprint_holds() == Some(false) {
            prop_assert!(theirs.is_err());
            return Ok(());
        }
        let Ok(theirs) = theirs else {
            panic!("they refuse what we read: {:?} {bytes:02x?}", theirs.err());
        };
        prop_assert_eq!((ours.class(), ours.method().0), (class_of(&theirs), theirs.method().value()));
        let id = u128::from(theirs.transaction_id()).to_be_bytes();
        prop_assert_eq!(&ours.transaction_id().0[..], &id[4..]);
        let our_attributes = before_the_end(ours.attributes().map(|a| (a.kind.0, a.value)));
        let raw: Vec<_> = theirs.iter_attributes().map(|(_, raw)| raw).collect();
        let theirs_listed = before_the_end(raw.iter().map(|raw| (raw.get_type().value(), &raw.value[..])));
        prop_assert_eq!(our_attributes, theirs_listed);
        let verdict = theirs.validate_integrity(&ShortTermCredentials::new(PASSWORD.into()).into());
        prop_assert_eq!(integrity_holds(&ours).unwrap_or(false), verdict.is_ok());
    }

    #[test]
    fn what_stun_rs_takes_we_take(plan in plan(), damage in damage()) {
        let bytes = damaged(&plan, &damage);
        let key = stun_rs::HMACKey::new_short_term(PASSWORD).expect("a key");
        let context = stun_rs::DecoderContextBuilder::default().with_key(key).with_validation().with_unknown_data();
        let decoder = stun_rs::MessageDecoderBuilder::default().with_context(context.build()).build();
        let Ok((theirs, size)) = decoder.decode(&bytes) else { return Ok(()) };
        let ours = Message::parse(&bytes[..size]).expect("they have read it");
        prop_assert_eq!(ours.method().0, theirs.method().as_u16());
        prop_assert_eq!(&ours.transaction_id().0, theirs.transaction_id().as_bytes());
        let kinds = ours.attributes().map(|a| a.kind.0).filter(|kind| !ENDING.contains(kind));
        let theirs = theirs.attributes().iter().map(|a| a.attribute_type().as_u16());
        prop_assert!(kinds.eq(theirs.filter(|kind| !ENDING.contains(kind))));
        prop_assert_ne!(integrity_holds(&ours), Some(false));
        prop_assert_ne!(ours.fingerprint_holds(), Some(false));
    }

    #[test]
    fn what_we_sign_both_verify(mut plan in plan()) {
        plan.values.clear(); // of any value `stun-rs` refuses what its type does not hold
        let bytes = plan.bytes();
        let theirs = TheirMessage::from_bytes(&bytes).expect("well-formed");
        let signed = plan.sha1 || plan.sha256;
        let verdict = theirs.validate_integrity(&ShortTermCredentials::new(PASSWORD.into()).into());
        prop_assert_eq!(verdict.is_ok(), signed);
        let key = stun_rs::HMACKey::new_short_term(PASSWORD).expect("a key");
        let context = stun_rs::DecoderContextBuilder::default().with_key(key).with_validation().build();
        let decoder = stun_rs::MessageDecoderBuilder::default().with_context(context).build();
        let (_, size) = decoder.decode(&bytes).expect("stun-rs verifies it");
        prop_assert_eq!(size, bytes.len());
    }
}
