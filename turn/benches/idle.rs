//! Memory of an idle allocation: resident bytes per allocation with one channel, in the whole process, sockets included.
//!
//! `cargo bench -p turn --features net --bench idle [-- COUNT]`. Starts the relay on loopback, allocates, binds a channel, and
//! closes the client's own socket; the kernel's socket buffers are not in the figure, nor in coturn's beside it.

#[path = "../tests/it/client.rs"]
#[allow(dead_code)] // the tests use more of it
mod client;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, REALM, addr, attribute, code, secret};
use common::handover::DatagramSink;
use common::metrics::Registry;
use common::net::Gate;
use turn::auth::Credentials;
use turn::relay::{RelayConfig, RelayIp};
use turn::settings::Settings;
use turn::stun::Writer;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};

/// What coturn's figures are for (23.2 kB each with 4.6.1).
const ALLOCATIONS: usize = 5000;
/// Allocations before the first look, so that what is made once is not counted.
const BEFORE: usize = 100;

struct NoMedia;

impl DatagramSink for NoMedia {
    fn deliver(&self, _: SocketAddr, _: SocketAddr, _: &[u8]) -> bool {
        false
    }
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has the line");
    let kilobytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<usize>().ok());
    kilobytes.expect("a number") * 1024
}

fn ask(socket: &UdpSocket, request: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 2048];
    socket.send(request).expect("sent");
    let length = socket.recv(&mut buffer).expect("an answer");
    buffer[..length].to_vec()
}

fn allocate(server: SocketAddr, index: usize) {
    // Another network for every hundred: the answers to strangers are rationed per network.
    let ip = [127, 1, (index / 100) as u8, 1];
    let socket = UdpSocket::bind(SocketAddr::from((ip, 0))).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    socket.connect(server).expect("connected");
    let mut client = Client::new("alice", u64::from(u32::MAX));
    let bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12])).finish();
    client.nonce = attribute(&ask(&socket, &bare), Kind::NONCE).expect("a nonce");
    assert_eq!(code(&ask(&socket, &client.allocate())), 0);
    assert_eq!(code(&ask(&socket, &client.bind(0x4001, addr("8.8.8.8:5000")))), 0);
}

fn main() {
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(ALLOCATIONS);
    let relay = RelayConfig {
        realm: REALM.into(),
        credentials: Credentials::of_secret(secret()),
        relay_ips: vec![RelayIp::direct(addr("127.0.0.1:0").ip())],
        ports: 10_000..=30_000,
        ..RelayConfig::default()
    };
    let settings = Settings { listen: vec![addr("127.0.0.1:0")], relay, ..Settings::default() };
    let gate = Gate::new(64, 64, true);
    let handle = turn::net::start(&settings, gate, vec![], Arc::new(NoMedia), &Registry::new());
    let handle = handle.expect("it starts");
    let server = handle.addresses()[0];
    (0..BEFORE).for_each(|index| allocate(server, index));
    let before = resident_bytes();
    (BEFORE..BEFORE + count).for_each(|index| allocate(server, index));
    let grown = resident_bytes().saturating_sub(before);
    println!("{count} idle allocations with a channel each: {} bytes resident per allocation", grown / count);
    handle.shutdown();
}
