//! IPv6 on real sockets: clients that come over it, relay sockets and peers of it, both families at once.

use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};

use turn::net::TurnHandle;
use turn::relay::RelayIp;
use turn::stun::attributes::{Kind, read_xor_address};
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::{Message, Writer};

use crate::client::{Client, addr, attribute, channel_data, code};
use crate::loopback::{Link, PATIENCE, Stream, connect, start_with};

/// Listens on both loopbacks and relays at both. `None`, with a line about it, where the machine has no `::1`.
fn start() -> Option<TurnHandle> {
    if let Err(error) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        // Not `println!`, which the harness keeps to itself when a test passes.
        writeln!(std::io::stderr(), "SKIPPED IPv6: no ::1 here ({error})").expect("stderr is open");
        return None;
    }
    let (handle, ..) = start_with(|settings| {
        settings.listen = vec![addr("127.0.0.1:0"), addr("[::1]:0")];
        settings.relay.relay_ips.push(RelayIp::direct(Ipv6Addr::LOCALHOST.into()));
        settings.relay.allowed_peers.push("::1/128".parse().expect("a net"));
    });
    Some(handle)
}

fn udp(text: &str) -> UdpSocket {
    let socket = UdpSocket::bind(text).expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket
}

/// A client with one address of each family.
fn both(link: &mut impl Link) -> (Client, [SocketAddr; 2]) {
    let mut client = Client::new("alice", u64::from(u32::MAX));
    let bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12])).finish();
    client.nonce = attribute(&link.ask(&bare), Kind::NONCE).expect("401 has a nonce");
    let request = client.request(Method::ALLOCATE, |w| {
        w.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attribute(Kind::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    });
    let answer = link.ask(&request);
    assert_eq!(code(&answer), 0);
    let message = Message::parse(&answer).expect("well-formed");
    let relayed = message.attributes().filter(|a| a.kind == Kind::XOR_RELAYED_ADDRESS);
    let relayed = relayed.map(|a| read_xor_address(a.value, message.transaction_id()).expect("an address"));
    (client, relayed.collect::<Vec<_>>().try_into().expect("two"))
}

fn relays_to_peers_of_both(link: &mut impl Link) {
    let (mut client, relayed) = both(link);
    for (peer, relayed, channel) in [("127.0.0.1:0", relayed[0], 0x4001), ("[::1]:0", relayed[1], 0x4002)] {
        let peer = udp(peer);
        assert_eq!(relayed.ip(), peer.local_addr().expect("bound").ip());
        assert_eq!(code(&link.ask(&client.bind(channel, peer.local_addr().expect("bound")))), 0);
        link.put(&channel_data(channel, b"there"));
        let mut buffer = [0; 100];
        let (length, from) = peer.recv_from(&mut buffer).expect("relayed");
        assert_eq!((&buffer[..length], from), (&b"there"[..], relayed));
        peer.send_to(b"back", relayed).expect("sent");
        assert_eq!(&link.take()[..8], [&channel.to_be_bytes()[..], b"\x00\x04back"].concat());
    }
}

#[test]
fn a_client_of_either_family_reaches_peers_of_both_over_udp_and_tcp() {
    let Some(handle) = start() else { return };
    for (local, server) in ["127.0.0.1:0", "[::1]:0"].into_iter().zip(handle.addresses()) {
        let mut link = udp(local);
        link.connect(*server).expect("connected");
        relays_to_peers_of_both(&mut link);
        relays_to_peers_of_both(&mut Stream(connect(*server)));
    }
}

#[test]
fn two_clients_meet_at_their_ipv6_addresses() {
    let Some(handle) = start() else { return };
    let mut links = [udp("127.0.0.1:0"), udp("[::1]:0")];
    for (link, server) in links.iter().zip(handle.addresses()) {
        link.connect(*server).expect("connected");
    }
    let [alice_link, bob_link] = &mut links;
    let (mut alice, alices) = both(alice_link);
    let (mut bob, bobs) = both(bob_link);
    assert_eq!(code(&alice_link.ask(&alice.bind(0x4001, bobs[1]))), 0);
    assert_eq!(code(&bob_link.ask(&bob.bind(0x4002, alices[1]))), 0);
    alice_link.put(&channel_data(0x4001, b"hello"));
    assert_eq!(bob_link.take(), b"\x40\x02\x00\x05hello");
    bob_link.put(&channel_data(0x4002, b"yes"));
    assert_eq!(alice_link.take(), b"\x40\x01\x00\x03yes");
}
