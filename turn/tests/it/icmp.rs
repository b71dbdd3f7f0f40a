//! ICMP errors about what a client sent, in a Data indication (RFC 8656 §11.5).

use turn::metrics::DropReason;
use turn::relay::{Icmp, Input, Output, RelayConfig, RelayIp, RelayedAddr};
use turn::stun::Message;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method};

use crate::client::addr;
use crate::core::{A, PEER, World, config, udp};

const PEER_V6: &str = "[2606:4700::1]:5000";

fn told(world: &mut World, relayed: RelayedAddr, peer: &str, icmp: Icmp) -> Option<Vec<u8>> {
    let outputs = world.input(Input::Icmp { relayed, peer: addr(peer), icmp });
    match &outputs[..] {
        [] => None,
        [Output::Reply { client, data }] if *client == udp(A) => Some(data.clone()),
        other => panic!("{other:?}"),
    }
}

/// Type, code and data: RFC 8656 §18.13 has seven bits for the type and nine for the code.
fn attribute(data: &[u8]) -> (u8, u16, [u8; 4]) {
    let value = Message::parse(data).expect("well-formed").attribute(Kind::ICMP).expect("has it").to_vec();
    let [0, 0, k0, k1, data @ ..] = &value[..] else { panic!("{value:?}") };
    (k0 >> 1, u16::from_be_bytes([k0 & 1, *k1]), data.try_into().expect("four bytes"))
}

#[test]
fn a_client_is_told_what_became_of_a_datagram_to_a_permitted_peer() {
    let mut world = World::new(config());
    let (mut client, shown) = world.allocated(udp(A), "alice");
    let relayed = RelayedAddr::udp(shown);
    let port_unreachable = Icmp { kind: 3, code: 3, mtu: 9 };
    assert_eq!(told(&mut world, relayed, PEER, port_unreachable), None, "no permission");
    assert_eq!(world.ask_code(udp(A), &client.permit(addr(PEER))), 0);
    let data = told(&mut world, relayed, PEER, port_unreachable).expect("a permission that lives");
    let message = Message::parse(&data).expect("well-formed");
    assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
    assert_eq!(message.xor_address(Kind::XOR_PEER_ADDRESS), Some(addr(PEER)));
    assert_eq!(message.attribute(Kind::DATA), None);
    assert_eq!(attribute(&data), (3, 3, [0; 4]));
    let too_big = Icmp { kind: 3, code: 4, mtu: 1280 };
    let data = told(&mut world, relayed, PEER, too_big).expect("told");
    assert_eq!(attribute(&data), (3, 4, 1280u32.to_be_bytes()));
    for kind in [0, 4, 5, 8, 12, 255] {
        assert_eq!(told(&mut world, relayed, PEER, Icmp { kind, ..port_unreachable }), None, "{kind}");
    }
    assert!(told(&mut world, relayed, PEER, Icmp { kind: 11, code: 0, mtu: 0 }).is_some());
    assert_eq!(told(&mut world, relayed.at_port(1), PEER, too_big), None);
    world.pass(300);
    assert_eq!(told(&mut world, relayed, PEER, port_unreachable), None, "it has ended");
    assert_eq!(world.dropped(DropReason::NoPermission), 2);
    assert_eq!(world.relay.allocations(), 1);
}

#[test]
fn icmp_of_ipv6_has_types_of_its_own() {
    let own = "2606:4700:5::5".parse().expect("an address");
    let mut world = World::new(RelayConfig {
        relay_ips: vec![RelayIp::direct(own)],
        keep_address_family: true,
        ..config()
    });
    let at = turn::relay::ClientAddr { remote: addr("[2001:db8::7]:1"), ..udp(A) };
    let (mut client, shown) = world.allocated(at, "alice");
    assert_eq!(world.ask_code(at, &client.permit(addr(PEER_V6))), 0);
    for (kind, code, mtu, expected) in [
        (1, 4, 0, Some((1, 4, [0; 4]))),
        (2, 0, 1280, Some((2, 0, 1280u32.to_be_bytes()))),
        (3, 1, 7, Some((3, 1, [0; 4]))),
        (4, 0, 0, None),
        (11, 0, 0, None),
        (128, 0, 0, None),
    ] {
        let (relayed, peer) = (RelayedAddr::udp(shown), addr(PEER_V6));
        let outputs = world.input(Input::Icmp { relayed, peer, icmp: Icmp { kind, code, mtu } });
        let value = outputs.first().map(|output| match output {
            Output::Reply { data, .. } => attribute(data),
            other => panic!("{other:?}"),
        });
        assert_eq!(value, expected, "type {kind}");
    }
}
