//! The shell on real sockets: the same Binding request over UDP, over a TCP frame, and out of the relay's hands.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::config::Media;
use common::control::{Action, Command, Done, FromMedia, Reply, TransportDirection, TransportInfo};
use common::handover::DatagramSink;
use common::ids::{PeerId, RoomId};
use common::metrics::Registry;
use common::net::Gate;
use media::net::MediaHandle;
use media::stun;
use tokio::sync::mpsc;

/// No test waits so long unless it fails.
const PATIENCE: Duration = Duration::from_secs(10);

struct Running {
    handle: MediaHandle,
    events: mpsc::Receiver<(usize, FromMedia)>,
    registry: Registry,
}

impl Running {
    fn new() -> Self {
        let config = Media {
            listen_ip: [127, 0, 0, 1].into(),
            announced_ip: [127, 0, 0, 1].into(),
            port: 0,
            workers: 1,
            tcp: true,
            max_bitrate: None,
            codecs: vec!["opus".into()],
        };
        let (sender, events) = mpsc::channel(64);
        let registry = Registry::new();
        Self {
            handle: media::net::start(&config, &Gate::new(64, 64, true), sender, &registry).expect("binds"),
            events,
            registry,
        }
    }

    fn done(&mut self, token: u64, action: Action) -> Done {
        let (room, peer) = (RoomId::new("room").expect("an id"), PeerId::new("alice").expect("an id"));
        let command = Command { token, room, peer, action };
        self.handle.senders()[0].blocking_send(command).expect("the worker runs");
        match self.events.blocking_recv() {
            Some((0, FromMedia::Reply(Reply { token: answered, result }))) if answered == token => {
                result.expect("the command succeeds")
            }
            other => panic!("{other:?}"),
        }
    }

    fn transport(&mut self) -> TransportInfo {
        self.done(1, Action::OpenRoom { codecs: None });
        self.done(2, Action::AddPeer);
        let action = Action::CreateTransport { direction: TransportDirection::Send, force_tcp: false };
        match self.done(3, action) {
            Done::Transport(info) => *info,
            other => panic!("{other:?}"),
        }
    }
}

fn request(info: &TransportInfo) -> Vec<u8> {
    let mut request = Vec::new();
    let username = format!("{}:them", info.ice_parameters.username_fragment);
    stun::write_request(&mut request, &[5; 12], &username, &stun::key(&info.ice_parameters.password));
    request
}

fn is_success(answer: &[u8]) -> bool {
    answer.starts_with(&[1, 1]) && answer[8..20] == [5; 12]
}

#[derive(Default)]
struct Relay(Mutex<Vec<(SocketAddr, Vec<u8>)>>);

impl DatagramSink for Relay {
    fn deliver(&self, _from: SocketAddr, to: SocketAddr, payload: &[u8]) -> bool {
        self.0.lock().expect("no panic").push((to, payload.to_vec()));
        true
    }
}

#[test]
fn checks_are_answered_on_every_path() {
    let mut running = Running::new();
    let info = running.transport();
    let address = running.handle.addresses()[0];
    assert_eq!(info.ice_candidates.len(), 2);

    let udp = UdpSocket::bind("127.0.0.1:0").expect("binds");
    udp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    udp.send_to(&request(&info), address).expect("sent");
    let mut answer = [0; 200];
    let (length, _) = udp.recv_from(&mut answer).expect("answered");
    assert!(is_success(&answer[..length]));

    let mut tcp = TcpStream::connect(address).expect("connects");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request_bytes = request(&info);
    // Both halves of a frame in separate segments.
    tcp.write_all(&(request_bytes.len() as u16).to_be_bytes()).expect("written");
    tcp.write_all(&request_bytes).expect("written");
    let mut length = [0; 2];
    tcp.read_exact(&mut length).expect("a frame");
    let mut frame = vec![0; usize::from(u16::from_be_bytes(length))];
    tcp.read_exact(&mut frame).expect("a whole frame");
    assert!(is_success(&frame));

    let relay = Arc::new(Relay::default());
    running.handle.set_turn(relay.clone());
    let relayed: SocketAddr = "192.0.2.9:50000".parse().expect("an address");
    assert!(running.handle.sink().deliver(relayed, address, &request(&info)));
    assert!(!running.handle.sink().deliver(relayed, relayed, b"not ours"));
    // A command behind it is answered after it, so the relay has its answer by then or a moment later.
    running.done(4, Action::AddPeer);
    let started = std::time::Instant::now();
    while relay.0.lock().expect("no panic").is_empty() && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    let answers = relay.0.lock().expect("no panic");
    assert!(matches!(&answers[..], [(to, answer)] if *to == relayed && is_success(answer)));
    let text = running.registry.encode();
    assert!(text.contains("causeway_media_transports 1\n"), "{text}");
    running.handle.shutdown();
    let text = running.registry.encode();
    assert!(text.contains("causeway_media_transports 0\n"), "{text}");
}
