//! The shell on real sockets: the same Binding request over UDP, over a TCP frame, and out of the relay's hands.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::config::Media;
use common::control::{Action, Command, Done, FromMedia, MediaError, TransportDirection, TransportInfo};
use common::handover::DatagramSink;
use common::ids::{PeerId, RoomId};
use common::metrics::Registry;
use common::net::Gate;
use media::net::MediaHandle;
use media::stun;
use tokio::sync::mpsc;

/// No test waits so long unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Running {
    pub handle: MediaHandle,
    events: mpsc::Receiver<(usize, FromMedia)>,
    pub registry: Registry,
}

impl Running {
    fn new() -> Self {
        Self::with_workers(1)
    }

    pub fn with_workers(workers: usize) -> Self {
        let config = Media {
            listen_ip: [127, 0, 0, 1].into(),
            announced_ip: [127, 0, 0, 1].into(),
            port: 0,
            workers,
            tcp: true,
            max_bitrate: None,
            max_speakers: 0,
            codecs: vec!["opus".into(), "VP8".into()],
        };
        let (sender, events) = mpsc::channel(64);
        let registry = Registry::new();
        Self {
            handle: media::net::start(&config, &Gate::new(64, 64, true), sender, &registry).expect("binds"),
            events,
            registry,
        }
    }

    pub fn ask(&mut self, worker: usize, token: u64, action: Action) -> Result<Done, MediaError> {
        self.ask_for("alice", worker, token, action)
    }

    pub fn ask_for(
        &mut self,
        peer: &str,
        worker: usize,
        token: u64,
        action: Action,
    ) -> Result<Done, MediaError> {
        let (room, peer) = (RoomId::new("room").expect("an id"), PeerId::new(peer).expect("an id"));
        let command = Command { token, room, peer, action };
        self.handle.senders()[worker].blocking_send(command).expect("the worker runs");
        match self.next() {
            (from, FromMedia::Reply(reply)) if from == worker && reply.token == token => reply.result,
            other => panic!("{other:?}"),
        }
    }

    /// What a worker says next, its load left out.
    fn next(&mut self) -> (usize, FromMedia) {
        loop {
            match self.events.blocking_recv().expect("the workers run") {
                (_, FromMedia::Load { .. }) => {}
                message => return message,
            }
        }
    }

    fn done(&mut self, token: u64, action: Action) -> Done {
        self.ask(0, token, action).expect("the command succeeds")
    }

    fn transport(&mut self) -> TransportInfo {
        self.transport_on(0)
    }

    fn transport_on(&mut self, worker: usize) -> TransportInfo {
        let action = Action::CreateTransport { direction: TransportDirection::Send, force_tcp: false };
        let actions = [Action::OpenRoom { codecs: None }, Action::AddPeer, action];
        let [.., made] = [1, 2, 3].map(|token| {
            self.ask(worker, token, actions[token as usize - 1].clone()).expect("the command succeeds")
        });
        match made {
            Done::Transport(info) => *info,
            other => panic!("{other:?}"),
        }
    }
}

pub fn request(info: &TransportInfo) -> Vec<u8> {
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

/// A relay with a mistake in it that the worker's thread runs into.
struct Mistaken;

impl DatagramSink for Mistaken {
    fn deliver(&self, _from: SocketAddr, _to: SocketAddr, _payload: &[u8]) -> bool {
        panic!("a mistake")
    }
}

fn checks_are_answered(info: &TransportInfo, address: SocketAddr) {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("binds");
    udp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    udp.send_to(&request(info), address).expect("sent");
    let mut answer = [0; 200];
    let (length, _) = udp.recv_from(&mut answer).expect("answered");
    assert!(is_success(&answer[..length]));
}

#[test]
fn a_worker_that_panics_takes_only_its_rooms_along() {
    let mut running = Running::with_workers(2);
    let [lost, kept] = [0, 1].map(|worker| running.transport_on(worker));
    let addresses = running.handle.addresses();
    running.handle.set_turn(Arc::new(Mistaken));
    let relayed: SocketAddr = "192.0.2.9:50000".parse().expect("an address");
    assert!(running.handle.sink().deliver(relayed, addresses[0], &request(&lost)));
    assert_eq!(running.next(), (0, FromMedia::Lost));

    checks_are_answered(&kept, addresses[1]);
    assert_eq!(running.ask(0, 4, Action::RemovePeer), Err(MediaError::RoomNotFound));
    let again = running.transport_on(0);
    checks_are_answered(&again, addresses[0]);
    let text = running.registry.encode();
    for line in ["causeway_media_worker_restarts_total 1\n", "causeway_media_transports 2\n"] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    running.handle.shutdown();
}
