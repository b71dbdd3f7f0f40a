//! TCP allocations on real sockets: bytes between a client's data connection and a peer's, both begun by either (RFC 6062).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use turn::stun::Message;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::{self, Writer};

use crate::client::{Client, address, attribute, code};
use crate::loopback::{Link, PATIENCE, Stream, connect, start_with};

/// More than the buffers on the way hold, so that back pressure is met.
const BULK_BYTES: usize = 8 * 1024 * 1024;

/// A connection to the relay, and a client that knows its nonce.
fn link(server: SocketAddr) -> (Stream<TcpStream>, Client) {
    let (mut link, mut client) = (Stream(connect(server)), Client::new("alice", u64::from(u32::MAX)));
    let bare = Writer::new(Class::Request, Method::REFRESH, TransactionId([9; 12])).finish();
    client.nonce = attribute(&link.ask(&bare), Kind::NONCE).expect("401 has a nonce");
    (link, client)
}

fn allocated(server: SocketAddr) -> (Stream<TcpStream>, Client, SocketAddr) {
    let (mut control, mut client) = link(server);
    let answer = control.ask(&client.request(Method::ALLOCATE, |w| {
        w.attribute(Kind::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
    }));
    assert_eq!(code(&answer), 0);
    (control, client, address(&answer, Kind::XOR_RELAYED_ADDRESS))
}

fn number(message: &[u8]) -> u32 {
    stun::Message::parse(message).expect("well-formed").number(Kind::CONNECTION_ID).expect("has it")
}

fn data_connection(server: SocketAddr, number: u32) -> TcpStream {
    let (mut link, mut client) = link(server);
    let answer = link.ask(&client.request(Method::CONNECTION_BIND, |w| {
        w.number(Kind::CONNECTION_ID, number);
    }));
    assert_eq!(code(&answer), 0);
    link.0
}

fn connect_request(client: &mut Client, peer: SocketAddr) -> Vec<u8> {
    client.request(Method::CONNECT, |w| {
        w.xor_address(Kind::XOR_PEER_ADDRESS, peer);
    })
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Much in one direction while the other is read, then the end of it, which the other side sees.
fn carries_everything(from: &mut TcpStream, to: &mut TcpStream) {
    let bytes: Vec<u8> = (0..BULK_BYTES).map(|i| (i / 3) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            from.write_all(&bytes).expect("sent");
            from.shutdown(std::net::Shutdown::Write).expect("open");
        });
        let mut received = Vec::new();
        to.read_to_end(&mut received).expect("received");
        assert!(received == bytes, "{} of {} bytes", received.len(), bytes.len());
    });
}

#[test]
fn a_client_connects_to_a_peer() {
    let (handle, _media, registry) = start_with(|_| {});
    let server = handle.addresses()[0];
    let (mut control, mut client, relayed) = allocated(server);
    let (peer, peer_address) = listener();
    let answer = control.ask(&connect_request(&mut client, peer_address));
    assert_eq!(code(&answer), 0);
    let (mut peer, from) = peer.accept().expect("connected");
    assert_eq!(from, relayed, "from the relayed address itself");
    peer.write_all(b"before anybody listens ").expect("sent");
    let mut data = data_connection(server, number(&answer));
    peer.write_all(b"and after").expect("sent");
    let mut received = [0; 32];
    data.read_exact(&mut received).expect("received");
    assert_eq!(&received, b"before anybody listens and after");
    carries_everything(&mut data, &mut peer);
    carries_everything(&mut peer, &mut data);
    let bytes = format!("turn_relayed_bytes_total{{to=\"peer\",transport=\"tcp\"}} {BULK_BYTES}\n");
    assert!(registry.encode().contains(&bytes), "{}", registry.encode());
}

#[test]
fn a_peer_connects_to_a_client() {
    let (handle, _media, _registry) = start_with(|_| {});
    let server = handle.addresses()[0];
    let (mut control, mut client, relayed) = allocated(server);
    let mut stranger = connect(relayed);
    assert_eq!(stranger.read(&mut [0; 1]).unwrap_or(0), 0, "no permission yet");
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    assert_eq!(code(&control.ask(&client.permit(anywhere))), 0);
    let mut peer = connect(relayed);
    let attempt = control.take();
    let message = Message::parse(&attempt).expect("well-formed");
    assert_eq!((message.class(), message.method()), (Class::Indication, Method::CONNECTION_ATTEMPT));
    assert_eq!(address(&attempt, Kind::XOR_PEER_ADDRESS), peer.local_addr().expect("bound"));
    let mut data = data_connection(server, number(&attempt));
    carries_everything(&mut peer, &mut data);
    carries_everything(&mut data, &mut peer);
}

#[test]
fn a_peer_that_does_not_listen_is_447_and_the_allocation_goes_on() {
    let (handle, ..) = start_with(|_| {});
    let (mut control, mut client, _) = allocated(handle.addresses()[0]);
    let nobody = listener().1; // closed again
    assert_eq!(code(&control.ask(&connect_request(&mut client, nobody))), 447);
    assert_eq!(code(&control.ask(&connect_request(&mut client, nobody))), 447, "nothing is left of it");
    assert_eq!(code(&control.ask(&client.refresh(600))), 0);
}

#[test]
fn both_connections_end_with_the_allocation_and_with_each_other() {
    let (handle, ..) = start_with(|_| {});
    let server = handle.addresses()[0];
    let (mut control, mut client, relayed) = allocated(server);
    let pair = |control: &mut Stream<TcpStream>, client: &mut Client| {
        let (peer, peer_address) = listener();
        let answer = control.ask(&connect_request(client, peer_address));
        (peer.accept().expect("connected").0, data_connection(server, number(&answer)))
    };
    let (peer, mut data) = pair(&mut control, &mut client);
    drop(peer);
    assert_eq!(data.read(&mut [0; 1]).unwrap_or(0), 0);
    let (mut peer, data) = pair(&mut control, &mut client);
    drop(data);
    assert_eq!(peer.read(&mut [0; 1]).unwrap_or(0), 0);
    let (mut peer, mut data) = pair(&mut control, &mut client);
    assert_eq!(code(&control.ask(&client.refresh(0))), 0);
    assert_eq!((peer.read(&mut [0; 1]).unwrap_or(0), data.read(&mut [0; 1]).unwrap_or(0)), (0, 0));
    let started = Instant::now();
    while TcpStream::connect(relayed).is_ok() {
        assert!(started.elapsed() < PATIENCE, "somebody still listens there");
        std::thread::yield_now();
    }
}
