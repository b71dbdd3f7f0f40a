//! Who has proved nothing: gets little, costs little, learns nothing.

use proptest::prelude::*;
use turn::metrics::DropReason;
use turn::relay::{Output, RelayConfig};
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, HEADER_BYTES, Method, TransactionId};
use turn::stun::integrity::Key;
use turn::stun::{Message, Writer};

use crate::client::{Client, UNIX, attribute, code};
use crate::core::{A, B, World, config, udp};

/// IPv4's and UDP's headers.
const IP_AND_UDP_BYTES: usize = 28;

/// Allocate as libwebrtc sends it first (REQUESTED-TRANSPORT), and as coturn's client does (LIFETIME too).
fn first_allocate(with_lifetime: bool) -> Vec<u8> {
    let mut writer = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12]));
    if with_lifetime {
        writer.number(Kind::LIFETIME, 777);
    }
    writer.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    writer.finish()
}

#[test]
fn real_first_requests_are_answered_with_all_that_a_client_needs() {
    let realm = "x".repeat(64); // longer than any domain's name in the wild
    let mut world = World::new(RelayConfig { realm: realm.clone(), ..config() });
    for (request, bytes) in [(first_allocate(false), 28), (first_allocate(true), 36)] {
        assert_eq!(request.len(), bytes);
        let answer = world.ask(udp(A), &request);
        assert_eq!(code(&answer), 401);
        assert_eq!(attribute(&answer, Kind::REALM).as_deref(), Some(realm.as_bytes()));
        assert!(attribute(&answer, Kind::NONCE).is_some());
        let (sent, got) = (request.len() + IP_AND_UDP_BYTES, answer.len() + IP_AND_UDP_BYTES);
        assert!(got <= 3 * sent, "{got} bytes for {sent}");
    }
    let mut world = World::new(config());
    let answer = world.ask(udp(A), &first_allocate(false));
    assert_eq!(answer.len(), 84, "with the algorithms, without words");
    assert!(attribute(&answer, Kind::PASSWORD_ALGORITHMS).is_some());
}

#[test]
fn a_long_request_gets_the_words_and_a_long_realm_loses_the_algorithms() {
    let mut padded = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12]));
    padded.attribute(Kind::SOFTWARE, &[b'x'; 100]);
    let mut world = World::new(config());
    let answer = world.ask(udp(A), &padded.finish());
    let reason = attribute(&answer, Kind::ERROR_CODE).expect("an error");
    assert_eq!(&reason[4..], b"Unauthenticated");
    let mut world = World::new(RelayConfig { realm: "x".repeat(200), ..config() });
    let answer = world.ask(udp(A), &first_allocate(false));
    assert_eq!(attribute(&answer, Kind::PASSWORD_ALGORITHMS), None);
    assert_eq!(attribute(&answer, Kind::NONCE).expect("401 has a nonce").len(), 16, "and no cookie");
}

#[test]
fn nobody_learns_who_has_an_account() {
    let mut world = World::new(config());
    let mut somebody = Client::new("static", UNIX + 100);
    somebody.key = Key::raw(b"guess");
    world.learn_nonce(udp(A), &mut somebody);
    let mut answers = Vec::new();
    for name in ["static", "nobody!", "1900000000:eve"] {
        somebody.username = name.into();
        let request = somebody.request(Method::ALLOCATE, |w| {
            w.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        });
        let answer = world.ask(udp(A), &request);
        let shape: Vec<_> = Message::parse(&answer)
            .expect("well-formed")
            .attributes()
            .filter(|a| a.kind != Kind::FINGERPRINT)
            .map(|a| match a.kind {
                Kind::NONCE => (a.kind.0, vec![a.value.len() as u8]),
                Kind::ERROR_CODE => (a.kind.0, a.value[..4].to_vec()), // its words depend on the request's length
                kind => (kind.0, a.value.to_vec()),
            })
            .collect();
        answers.push(shape);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
}

#[test]
fn an_allocation_of_another_is_not_to_be_noticed() {
    let mut world = World::new(config());
    world.allocated(udp(A), "alice");
    let bare = |method| Writer::new(Class::Request, method, TransactionId([9; 12])).finish();
    for method in [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND] {
        let shape = |world: &mut World, at| {
            let answer = world.ask(udp(at), &bare(method));
            (code(&answer), answer.len())
        };
        assert_eq!(shape(&mut world, A), shape(&mut world, B), "{method:?}");
    }
}

/// Attributes of requests, known and unknown, with values of any length.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        prop::sample::select(vec![
            0x0006u16, 0x0008, 0x000d, 0x0014, 0x0015, 0x0019, 0x001c, 0x001d, 0x001e, 0x8002, 0x8022,
            0x8028,
        ]),
        any::<u16>(),
    ];
    let value = prop::collection::vec(any::<u8>(), 0..40);
    let method = prop::sample::select(vec![0x001u16, 0x003, 0x004, 0x008, 0x009]);
    (method, prop::collection::vec((kind, value), 0..6), any::<bool>()).prop_map(
        |(method, values, signed)| {
            let mut writer = Writer::new(Class::Request, Method(method), TransactionId([5; 12]));
            for (kind, value) in values {
                writer.attribute(Kind(kind), &value);
            }
            if signed {
                writer.integrity(&Key::raw_sha256(b"guess"));
            }
            writer.finish()
        },
    )
}

proptest! {
    #[test]
    fn forged_requests_leave_nothing_and_are_answered_within_the_bound(
        requests in prop::collection::vec(request(), 1..20),
        software in prop::option::of("[a-z]{0,40}"),
        fingerprint: bool,
    ) {
        let mut world = World::new(RelayConfig { software, fingerprint, ..config() });
        let (mut alice, _) = world.allocated(udp(B), "alice");
        for request in requests {
            let outputs = world.client(udp(A), &request);
            prop_assert!(outputs.len() <= 1, "{:?}", outputs);
            for output in outputs {
                let Output::Reply { client, data } = output else { panic!("a stranger reached {output:?}") };
                prop_assert_eq!(client, udp(A));
                prop_assert!(data.len() + IP_AND_UDP_BYTES <= 3 * (request.len() + IP_AND_UDP_BYTES));
                prop_assert!(data.len() >= HEADER_BYTES && code(&data) != 0 || request[1] == 1);
            }
            prop_assert_eq!(world.relay.allocations(), 1);
            prop_assert!(!world.relay.has_allocation(&udp(A)));
        }
        prop_assert_eq!(world.dropped(DropReason::StrangerLimit), 0);
        prop_assert_eq!(world.ask_code(udp(B), &alice.refresh(600)), 0);
    }
}
