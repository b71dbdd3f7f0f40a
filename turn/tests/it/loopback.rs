//! Real sockets on loopback: a UDP and a TCP client, a peer, and media in the same process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::config::Secret;
use common::handover::DatagramSink;
use common::metrics::Registry;
use common::net::Gate;
use turn::auth::Credentials;
use turn::net::TurnHandle;
use turn::relay::{RelayConfig, RelayIp};
use turn::settings::Settings;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::{Message, Writer};

use crate::client::{Client, REALM, addr, address, attribute, channel_data, code, secret};

/// Far above what a busy machine needs; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);
const MEDIA: &str = "127.0.0.1:9";

/// From, to, payload.
type Delivered = (SocketAddr, SocketAddr, Vec<u8>);

struct Media(mpsc::Sender<Delivered>);

impl DatagramSink for Media {
    fn deliver(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> bool {
        self.0.send((from, to, payload.to_vec())).is_ok()
    }
}

fn start() -> (TurnHandle, mpsc::Receiver<Delivered>, Registry) {
    start_with(|_| {})
}

pub fn start_with(change: impl FnOnce(&mut Settings)) -> (TurnHandle, mpsc::Receiver<Delivered>, Registry) {
    let mut settings = settings();
    change(&mut settings);
    start_settings(&settings, Gate::new(64, 64, true))
}

/// Relays on loopback, which is allowed as a peer.
pub fn settings() -> Settings {
    let relay = RelayConfig {
        realm: REALM.into(),
        credentials: Credentials::of_secret(secret()),
        relay_ips: vec![RelayIp::direct(addr(MEDIA).ip())],
        ports: 20_000..=29_999,
        allowed_peers: vec!["127.0.0.0/8".parse().expect("a net")],
        ..RelayConfig::default()
    };
    Settings { listen: vec![addr("127.0.0.1:0")], relay, ..Settings::default() }
}

pub fn start_settings(
    settings: &Settings,
    gate: Arc<Gate>,
) -> (TurnHandle, mpsc::Receiver<Delivered>, Registry) {
    let (sender, media) = mpsc::channel();
    let registry = Registry::new();
    let media_sink = Arc::new(Media(sender));
    let handle = turn::net::start(settings, gate, vec![addr(MEDIA)], media_sink, &registry);
    (handle.expect("it starts"), media, registry)
}

/// A client's way to the server.
pub trait Link {
    fn put(&mut self, data: &[u8]);
    fn take(&mut self) -> Vec<u8>;

    fn ask(&mut self, data: &[u8]) -> Vec<u8> {
        self.put(data);
        self.take()
    }

    fn allocated(&mut self) -> (Client, SocketAddr) {
        let mut client = Client::new("alice", u64::from(u32::MAX));
        let bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12])).finish();
        client.nonce = attribute(&self.ask(&bare), Kind::NONCE).expect("401 has a nonce");
        let answer = self.ask(&client.allocate());
        assert_eq!(code(&answer), 0);
        (client, address(&answer, Kind::XOR_RELAYED_ADDRESS))
    }
}

pub fn udp_socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket
}

impl Link for UdpSocket {
    fn put(&mut self, data: &[u8]) {
        UdpSocket::send(self, data).expect("sent");
    }

    fn take(&mut self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let length = UdpSocket::recv(self, &mut buffer).expect("an answer");
        buffer[..length].to_vec()
    }
}

/// STUN and ChannelData framed in a stream.
pub struct Stream<S>(pub S);

impl<S: Read + Write> Link for Stream<S> {
    fn put(&mut self, data: &[u8]) {
        let mut framed = data.to_vec();
        framed.resize(framed.len().next_multiple_of(4), 0);
        self.0.write_all(&framed).expect("sent");
    }

    fn take(&mut self) -> Vec<u8> {
        let mut frame = vec![0; 4];
        self.0.read_exact(&mut frame).expect("a header");
        let length = usize::from(u16::from_be_bytes([frame[2], frame[3]]));
        let rest = if frame[0] < 0x40 { 16 + length } else { length.next_multiple_of(4) };
        frame.resize(4 + rest, 0);
        self.0.read_exact(&mut frame[4..]).expect("a frame");
        frame
    }
}

pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

pub fn relays_to_a_peer(link: &mut impl Link) {
    let (mut client, relayed) = link.allocated();
    let peer = udp_socket();
    let peer_address = peer.local_addr().expect("bound");
    assert_eq!(code(&link.ask(&client.permit(peer_address))), 0);
    link.put(&client.send(peer_address, b"by indication"));
    let mut buffer = [0; 100];
    let (length, from) = peer.recv_from(&mut buffer).expect("relayed");
    assert_eq!((&buffer[..length], from), (&b"by indication"[..], relayed));
    peer.send_to(b"back", relayed).expect("sent");
    let indication = link.take();
    let message = Message::parse(&indication).expect("a Data indication");
    assert_eq!(message.attribute(Kind::DATA), Some(&b"back"[..]));

    assert_eq!(code(&link.ask(&client.bind(0x4001, peer_address))), 0);
    link.put(&channel_data(0x4001, b"by channel"));
    let (length, _) = peer.recv_from(&mut buffer).expect("relayed");
    assert_eq!(&buffer[..length], b"by channel");
    peer.send_to(b"again", relayed).expect("sent");
    assert_eq!(&link.take()[..9], b"\x40\x01\x00\x05again");
}

#[test]
fn a_udp_client_is_relayed() {
    let (handle, media, registry) = start();
    let mut link = udp_socket();
    link.connect(handle.addresses()[0]).expect("connected");
    relays_to_a_peer(&mut link);

    let mut link = udp_socket();
    link.connect(handle.addresses()[0]).expect("connected");
    let (mut client, relayed) = link.allocated();
    assert_eq!(code(&link.ask(&client.bind(0x4002, addr(MEDIA)))), 0);
    link.put(&channel_data(0x4002, b"to media"));
    let got = media.recv_timeout(PATIENCE).expect("delivered");
    assert_eq!(got, (relayed, addr(MEDIA), b"to media".to_vec()));
    assert!(handle.sink().deliver(addr(MEDIA), relayed, b"from media"));
    assert_eq!(link.take(), b"\x40\x02\x00\x0afrom media");
    assert!(registry.encode().contains("causeway_turn_allocations 2"));
    handle.shutdown();
}

#[test]
fn a_running_relay_takes_other_credentials_and_drains() {
    let (handle, _media, _registry) = start();
    let fresh = || {
        let link = udp_socket();
        link.connect(handle.addresses()[0]).expect("connected");
        link
    };
    let allocate = |link: &mut UdpSocket, client: &mut Client| {
        let bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12])).finish();
        client.nonce = attribute(&link.ask(&bare), Kind::NONCE).expect("401 has a nonce");
        code(&link.ask(&client.allocate()))
    };
    // An order overtakes no datagram and is overtaken by some.
    let until = |wanted| {
        (0..1000).any(|_| allocate(&mut fresh(), &mut Client::new("bob", u64::from(u32::MAX))) == wanted)
    };
    let mut link = fresh();
    let (mut client, _) = link.allocated();
    assert!(handle.set_credentials(Credentials::of_secret(Secret(b"south".to_vec()))));
    assert!(until(401), "by the old secret");
    assert_eq!(code(&link.ask(&client.refresh(600))), 0, "what there is goes on");
    assert!(handle.set_credentials(Credentials::of_secret(secret())));
    assert!(until(0), "by the old one again");
    assert!(handle.drain());
    assert!(until(508));
    assert_eq!(code(&link.ask(&client.refresh(600))), 0);
    let before = handle.allocations();
    assert_eq!(code(&link.ask(&client.refresh(0))), 0);
    assert_eq!(handle.allocations(), before - 1);
    handle.shutdown();
}

#[test]
fn a_tcp_client_is_relayed() {
    let (handle, _media, _registry) = start();
    relays_to_a_peer(&mut Stream(connect(handle.addresses()[0])));
}

#[test]
fn a_tcp_connection_that_is_no_stun_is_closed() {
    let (handle, _media, _registry) = start();
    let mut link = connect(handle.addresses()[0]);
    link.write_all(b"\xffGET / HTTP/1.1\r\n\r\n").expect("sent");
    assert_eq!(link.read(&mut [0; 10]).unwrap_or(0), 0);
}
