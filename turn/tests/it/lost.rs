//! What the network refuses: told to the client when it says so by ICMP, and never the end of an allocation.

use std::net::{SocketAddr, UdpSocket};

use turn::stun::Message;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method};

use crate::client::{Client, addr, channel_data, code};
use crate::loopback::{Link, PATIENCE, start_with};

fn udp() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

/// The next message that is not about ICMP.
fn next(link: &mut UdpSocket) -> Vec<u8> {
    loop {
        let data = link.take();
        if !Message::parse(&data).is_ok_and(|message| message.attribute(Kind::ICMP).is_some()) {
            return data;
        }
    }
}

/// A packet there and one back, past whatever the client is told meanwhile.
fn relays(link: &mut UdpSocket, client: &mut Client, relayed: SocketAddr, channel: u16) {
    let (peer, peer_address) = udp();
    link.put(&client.bind(channel, peer_address));
    assert_eq!(code(&next(link)), 0);
    link.put(&channel_data(channel, b"there"));
    let mut buffer = [0; 100];
    let (length, from) = peer.recv_from(&mut buffer).expect("relayed");
    assert_eq!((&buffer[..length], from), (&b"there"[..], relayed));
    peer.send_to(b"back", relayed).expect("sent");
    assert_eq!(next(link), [&channel.to_be_bytes()[..], b"\x00\x04back"].concat());
}

#[test]
fn a_port_that_nobody_has_is_told_and_others_go_on() {
    let (handle, ..) = start_with(|_| {});
    let (mut link, _) = udp();
    link.connect(handle.addresses()[0]).expect("connected");
    let (mut client, relayed) = link.allocated();
    let nobody = udp().1; // closed again
    assert_eq!(code(&link.ask(&client.bind(0x4001, nobody))), 0);
    for channel in 0x4010..0x4013 {
        link.put(&channel_data(0x4001, b"is anybody there?"));
        let indication = link.take();
        let message = Message::parse(&indication).expect("well-formed");
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        assert_eq!(message.xor_address(Kind::XOR_PEER_ADDRESS), Some(nobody));
        // Destination unreachable, port (RFC 792): 3 in seven bits, 3 in nine.
        assert_eq!(message.attribute(Kind::ICMP), Some(&[0, 0, 6, 3, 0, 0, 0, 0][..]));
        relays(&mut link, &mut client, relayed, channel);
    }
}

/// Broadcast is EACCES; a network without a route ENETUNREACH, and from loopback EINVAL.
#[test]
fn what_the_kernel_refuses_is_loss() {
    let (handle, ..) = start_with(|settings| {
        settings.relay.allowed_peers = vec!["0.0.0.0/0".parse().expect("a net")];
    });
    let (mut link, _) = udp();
    link.connect(handle.addresses()[0]).expect("connected");
    let (mut client, relayed) = link.allocated();
    for (channel, peer) in [
        (0x4001, "255.255.255.255:9"),
        (0x4002, "0.0.0.0:9"),
        (0x4003, "240.0.0.1:9"),
        (0x4004, "203.0.113.1:9"),
        (0x4005, "224.0.0.1:9"),
    ] {
        link.put(&client.bind(channel, addr(peer)));
        assert_eq!(code(&next(&mut link)), 0, "{peer}");
        (0..3).for_each(|_| link.put(&channel_data(channel, b"x")));
        relays(&mut link, &mut client, relayed, channel + 0x100);
    }
}
