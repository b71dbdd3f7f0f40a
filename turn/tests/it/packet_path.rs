//! What a relayed packet may cost and what it must notice: no memory, and every change of who may speak to whom.

use std::net::SocketAddr;
use std::time::Duration;

use turn::metrics::DropReason;
use turn::relay::{ClientAddr, Destination, Input, Output, RelayedAddr};
use turn::stun::Writer;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};

use crate::client::{Client, UNIX, addr, channel_data};
use crate::core::{A, B, MEDIA, PEER, World, config, udp};

/// More than any queue or table of the core starts with.
const PACKETS: usize = 2000;

/// Carries an input as the shell does, without keeping what comes out; how many packets were forwarded.
fn carry(world: &mut World, input: Input<'_>) -> usize {
    world.relay.handle_input(world.now, input);
    let mut forwarded = 0;
    loop {
        match world.relay.poll_output() {
            Output::Forward { .. } => forwarded += 1,
            Output::Timeout(_) => return forwarded,
            other => panic!("{other:?}"),
        }
    }
}

/// Allocations of memory while `PACKETS` times each of these inputs is carried, after one of each.
fn memory_for(world: &mut World, inputs: &[Input<'_>]) -> u64 {
    inputs.iter().for_each(|input| assert_eq!(carry(world, *input), 1, "{input:?}"));
    let mut forwarded = 0;
    let memory = allocation_counter::measure(|| {
        for _ in 0..PACKETS {
            world.now += Duration::from_micros(10);
            forwarded += inputs.iter().map(|input| carry(world, *input)).sum::<usize>();
        }
    });
    assert_eq!(forwarded, PACKETS * inputs.len());
    memory.count_total
}

fn bound(world: &mut World, at: ClientAddr, user: &str, channel: u16, peer: &str) -> (Client, SocketAddr) {
    let (mut client, relayed) = world.allocated(at, user);
    assert_eq!(world.ask_code(at, &client.bind(channel, addr(peer))), 0);
    (client, relayed)
}

#[test]
fn a_relayed_packet_allocates_no_memory() {
    let mut world = World::new(config());
    let (a, b) = (udp(A), udp(B));
    let (mut alice, relayed_a) = bound(&mut world, a, "alice", 0x4001, PEER);
    let (mut bob, relayed_b) = bound(&mut world, b, "bob", 0x4001, PEER);
    assert_eq!(world.ask_code(a, &alice.bind(0x4002, relayed_b)), 0);
    assert_eq!(world.ask_code(a, &alice.bind(0x4003, addr(MEDIA))), 0);
    assert_eq!(world.ask_code(b, &bob.permit(relayed_a)), 0);
    let (port_a, port_b) = (RelayedAddr::udp(relayed_a), RelayedAddr::udp(relayed_b));
    let payload = &[7; 1200][..];
    let up = [0x4001, 0x4002, 0x4003].map(|channel| channel_data(channel, payload));
    let send = alice.send(addr(PEER), payload);
    let from_peer = |port, peer| Input::FromPeer { relayed: port, peer: addr(peer), data: payload };

    let train = [Input::FromClient { client: a, data: &up[0] }];
    assert_eq!(memory_for(&mut world, &train), 0, "a train of one client");
    assert_eq!(memory_for(&mut world, &[from_peer(port_a, PEER)]), 0, "a train of one peer");
    let mixed = [
        Input::FromClient { client: a, data: &up[0] },
        Input::FromClient { client: b, data: &up[0] },
        Input::FromClient { client: a, data: &up[1] },
        Input::FromClient { client: a, data: &up[2] },
        Input::FromClient { client: a, data: &send },
        from_peer(port_a, PEER),
        from_peer(port_b, PEER),
        from_peer(port_b, "8.8.8.8:9"),
        Input::FromMedia { relayed: relayed_a, media: addr(MEDIA), data: payload },
    ];
    assert_eq!(memory_for(&mut world, &mixed), 0, "every way, one after the other");
}

#[test]
fn a_dropped_packet_allocates_no_memory() {
    let mut world = World::new(config());
    let (_client, relayed) = bound(&mut world, udp(A), "alice", 0x4001, PEER);
    let (port, unbound) = (RelayedAddr::udp(relayed), channel_data(0x4002, b"x"));
    let inputs = [
        Input::FromClient { client: udp(A), data: &unbound },
        Input::FromClient { client: udp(B), data: &unbound },
        Input::FromClient { client: udp(B), data: b"\xff\xff" },
        Input::FromPeer { relayed: port, peer: addr("8.8.4.4:1"), data: b"x" },
        Input::FromPeer { relayed: RelayedAddr::udp(addr("198.51.100.1:1")), peer: addr(PEER), data: b"x" },
    ];
    let memory = allocation_counter::measure(|| {
        for input in inputs.iter().cycle().take(PACKETS) {
            assert_eq!(carry(&mut world, *input), 0);
        }
    });
    assert_eq!(memory.count_total, 0);
    assert_eq!(world.dropped(DropReason::NoChannel), (PACKETS / inputs.len()) as u64);
}

#[test]
fn a_train_notices_the_end_of_its_channel_within_itself() {
    let mut world = World::new(config());
    let (_client, relayed) = bound(&mut world, udp(A), "alice", 0x4001, PEER);
    let data = channel_data(0x4001, b"x");
    let port = RelayedAddr::udp(relayed);
    let both = [
        Input::FromClient { client: udp(A), data: &data },
        Input::FromPeer { relayed: port, peer: addr(PEER), data: b"x" },
    ];
    world.now += Duration::from_millis(299_999);
    assert!(both.iter().all(|input| carry(&mut world, *input) == 1));
    world.now += Duration::from_millis(1);
    assert!(both.iter().all(|input| carry(&mut world, *input) == 0));
    assert_eq!(world.dropped(DropReason::NoPermission), 2);
}

#[test]
fn a_train_notices_what_clients_change_in_between() {
    let mut world = World::new(config());
    let (a, b) = (udp(A), udp(B));
    let (mut alice, relayed_a) = bound(&mut world, a, "alice", 0x4001, PEER);
    let port = RelayedAddr::udp(relayed_a);
    let down = Input::FromPeer { relayed: port, peer: addr("8.8.8.8:9"), data: b"x" };
    let prefix_bytes = |world: &mut World| {
        let outputs = world.input(down);
        match &outputs[..] {
            [Output::Forward { to: Destination::Client { prefix, .. }, .. }] => prefix.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(prefix_bytes(&mut world), 36, "a Data indication");
    assert_eq!(world.ask_code(a, &alice.bind(0x4005, addr("8.8.8.8:9"))), 0);
    assert_eq!(prefix_bytes(&mut world), 4, "ChannelData from the next packet on");

    let (mut bob, relayed_b) = bound(&mut world, b, "bob", 0x4001, PEER);
    assert_eq!(world.ask_code(a, &alice.bind(0x4002, relayed_b)), 0);
    assert_eq!(world.ask_code(b, &bob.permit(relayed_a)), 0);
    let to_bob = channel_data(0x4002, b"x");
    let up = Input::FromClient { client: a, data: &to_bob };
    assert!(matches!(
        world.input(up)[..],
        [Output::Forward { to: Destination::Client { client, .. }, .. }] if client == b
    ));
    assert_eq!(world.ask_code(b, &bob.refresh(0)), 0);
    let outputs = world.input(up);
    assert!(
        !outputs.iter().any(|o| matches!(o, Output::Forward { to: Destination::Client { .. }, .. })),
        "{outputs:?}"
    );

    let data = channel_data(0x4001, b"x");
    assert_eq!(carry(&mut world, Input::FromClient { client: a, data: &data }), 1);
    assert_eq!(world.ask_code(a, &alice.refresh(0)), 0);
    assert_eq!(carry(&mut world, Input::FromClient { client: a, data: &data }), 0);
    assert_eq!(carry(&mut world, down), 0);
}

#[test]
fn dont_fragment_is_taken_and_what_is_unknown_is_not() {
    let mut world = World::new(config());
    let mut client = Client::new("alice", UNIX + 100);
    world.learn_nonce(udp(A), &mut client);
    let request = client.request(Method::ALLOCATE, |w| {
        w.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).attribute(Kind::DONT_FRAGMENT, &[]);
    });
    assert_eq!(world.ask_code(udp(A), &request), 0);
    assert_eq!(world.ask_code(udp(A), &client.permit(addr(PEER))), 0);
    for (attribute, forwarded) in [(Kind::DONT_FRAGMENT, 1), (Kind(0x0042), 0)] {
        let mut send = Writer::new(Class::Indication, Method::SEND, TransactionId([1; 12]));
        send.xor_address(Kind::XOR_PEER_ADDRESS, addr(PEER));
        send.attribute(attribute, &[]).attribute(Kind::DATA, b"whole");
        let data = send.finish();
        assert_eq!(carry(&mut world, Input::FromClient { client: udp(A), data: &data }), forwarded);
    }
    assert_eq!(world.dropped(DropReason::Unexpected), 1);
}
