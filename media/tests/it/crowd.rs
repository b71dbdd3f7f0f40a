//! Clients on real sockets: publishers that send in step, a train of each at the same moment, thirty times a second; and a room
//! on two workers.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::control::{Action, Done, Imported, PublishedId, TransportDirection};
use common::ids::{ProducerId, TransportId};
use common::rtp_parameters::{DtlsParameters, DtlsRole, MediaKind};
use media::connection::{Connection, ConnectionEvent, ConnectionOutput};
use media::dtls::Identity;
use media::srtp::{self, OVERHEAD_MAX, Profile, SrtpContext};

use crate::client::{packet, vp8};
use crate::net::{PATIENCE, Running, request};

const PUBLISHERS: usize = 28;
const TRAINS: u64 = 50;
const TRAIN_PACKETS: u64 = 40;
/// A wire packet of 1200 bytes, its header and its tag taken off.
const PAYLOAD_BYTES: usize = 1200 - 12 - 16;
/// What the kernel counts for a whole round of them, each as 2304 bytes.
const ROUND_BYTES: usize = PUBLISHERS * TRAIN_PACKETS as usize * 2304;

/// A client with one transport.
struct Member {
    name: String,
    worker: usize,
    socket: UdpSocket,
    transport: TransportId,
    inbound: SrtpContext,
    outbound: SrtpContext,
}

impl Member {
    /// Joins and connects, as a client would.
    fn join(running: &mut Running, worker: usize, name: &str, direction: TransportDirection) -> Self {
        let done = |running: &mut Running, action: Action| {
            running.ask_for(name, worker, 0, action).expect("the command succeeds")
        };
        done(running, Action::OpenRoom { codecs: None });
        done(running, Action::AddPeer);
        let create = Action::CreateTransport { direction, force_tcp: false };
        let Done::Transport(info) = done(running, create) else { panic!("a transport") };
        let fingerprints = vec![Identity::of_process().fingerprint()];
        let dtls = DtlsParameters { role: DtlsRole::Client, fingerprints };
        done(running, Action::ConnectTransport { transport: info.id.clone(), dtls });
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        socket.connect(running.handle.addresses()[worker]).expect("connected");
        socket.send(&request(&info)).expect("sent");
        let server = DtlsParameters { role: DtlsRole::Server, ..info.dtls_parameters };
        let (inbound, outbound) = shake_hands(&socket, &server);
        Self { name: name.into(), worker, socket, transport: info.id, inbound, outbound }
    }

    fn ask(&self, running: &mut Running, action: Action) -> Done {
        running.ask_for(&self.name, self.worker, 0, action).expect("the command succeeds")
    }

    fn produce(&self, running: &mut Running) -> ProducerId {
        let (transport, kind) = (self.transport.clone(), MediaKind::Video);
        match self.ask(running, Action::Produce { transport, kind, rtp: vp8(), paused: false }) {
            Done::Producer { id } => id,
            other => panic!("{other:?}"),
        }
    }

    /// Sequence numbers of all the packets that come until none has come for a while.
    fn received(&mut self) -> BTreeSet<u64> {
        let mut numbers = BTreeSet::new();
        let mut datagram = [0; 2000];
        self.socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        while let Ok(length) = self.socket.recv(&mut datagram) {
            let packet = &mut datagram[..length];
            if (128..192).contains(&packet[0]) && !media::rtp::is_rtcp(packet) {
                numbers.insert(self.inbound.open_rtp(packet).expect("opens").index);
            }
        }
        numbers
    }

    fn seal(&mut self, sequence: u64) -> Vec<u8> {
        let payload = [&[0x90, 0x80, 1, u8::from(sequence > 1)][..], &[7; PAYLOAD_BYTES - 4]].concat();
        let timestamp = (sequence / TRAIN_PACKETS) as u32 * 3000;
        let mut sealed = packet(96, sequence as u16, timestamp, 7000, &payload);
        let plain = sealed.len();
        sealed.resize(plain + OVERHEAD_MAX, 0);
        let length = self.outbound.seal_rtp(&mut sealed, plain, sequence).expect("sealed");
        sealed.truncate(length);
        sealed
    }
}

fn shake_hands(socket: &UdpSocket, server: &DtlsParameters) -> (SrtpContext, SrtpContext) {
    let mut connection = Connection::new(Instant::now(), &Identity::of_process());
    connection.connect(Instant::now(), server).expect("first connect");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        loop {
            match connection.poll_output() {
                ConnectionOutput::Transmit(datagram) => _ = socket.send(&datagram).expect("sent"),
                ConnectionOutput::Event(ConnectionEvent::Connected { active }) => {
                    let keys = connection.keys().expect("keys");
                    let profile = Profile::try_from(keys.profile).expect("a profile");
                    return srtp::contexts(profile, &keys.material, active).expect("contexts");
                }
                ConnectionOutput::Event(_) => {}
                ConnectionOutput::Timeout(_) => break,
            }
        }
        let mut datagram = [0; 2000];
        match socket.recv(&mut datagram) {
            Ok(length) if (20..64).contains(&datagram[0]) => {
                connection.handle_datagram(Instant::now(), &datagram[..length]);
            }
            _ => connection.handle_timeout(Instant::now()),
        }
    }
    panic!("no handshake")
}

/// Where it is not ours to enlarge, a small buffer is the operator's (and the log says so).
fn buffer_is_large_enough() -> bool {
    let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default();
    let limit: usize = limit.trim().parse().unwrap_or(0);
    rustix::process::geteuid().is_root() || 2 * limit >= ROUND_BYTES
}

#[test]
fn publishers_that_send_in_step_lose_nothing() {
    if !buffer_is_large_enough() {
        return eprintln!("SKIPPED: net.core.rmem_max is too small, and this is not root");
    }
    let mut running = Running::with_workers(1);
    let join = |number| Member::join(&mut running, 0, &format!("p{number}"), TransportDirection::Send);
    let mut publishers: Vec<Member> = (0..PUBLISHERS).map(join).collect();
    publishers.iter().for_each(|publisher| _ = publisher.produce(&mut running));
    let address: SocketAddr = running.handle.addresses()[0];
    let began = Instant::now();
    for train in 0..TRAINS {
        let sequences = train * TRAIN_PACKETS + 1..(train + 1) * TRAIN_PACKETS + 1;
        let trains: Vec<Vec<Vec<u8>>> = publishers
            .iter_mut()
            .map(|publisher| sequences.clone().map(|sequence| publisher.seal(sequence)).collect())
            .collect();
        let due = began + Duration::from_secs(1) / 30 * train as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        for at in 0..TRAIN_PACKETS as usize {
            for (publisher, train) in publishers.iter().zip(&trains) {
                publisher.socket.send(&train[at]).expect("sent");
            }
        }
    }
    let sent = PUBLISHERS as u64 * TRAINS * TRAIN_PACKETS;
    let received = format!("causeway_media_packets_received_total {sent}\n");
    let began = Instant::now();
    while !running.registry.encode().contains(&received) && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = running.registry.encode();
    assert!(text.contains(&received), "{sent} packets were sent to {address}, and\n{text}");
    running.handle.shutdown();
}

#[test]
fn a_room_on_two_workers_is_one_room() {
    let mut running = Running::with_workers(2);
    let mut alice = Member::join(&mut running, 0, "alice", TransportDirection::Send);
    let mut bob = Member::join(&mut running, 1, "bob", TransportDirection::Recv);
    let id = alice.produce(&mut running);
    let imported = Imported::Media { id: id.clone(), kind: MediaKind::Video, rtp: vp8(), paused: false };
    let import = Action::Import { pipe: 5, from: 0, published: Box::new(imported) };
    running.ask_for("alice", 1, 0, import).expect("imported");
    alice.ask(&mut running, Action::Export { published: PublishedId::Media(id.clone()), pipe: 5, to: 1 });
    let Done::Room { capabilities } = bob.ask(&mut running, Action::OpenRoom { codecs: None }) else {
        panic!("a room")
    };
    let consume = Action::Consume { transport: bob.transport.clone(), producer: id, capabilities };
    let Done::Consumer(info) = bob.ask(&mut running, consume) else { panic!("a consumer") };
    bob.ask(&mut running, Action::ResumeConsumer { consumer: info.id });
    // No more than what Bob's own socket holds until he reads.
    for sequence in 1..=50 {
        let packet = alice.seal(sequence);
        alice.socket.send(&packet).expect("sent");
    }
    let received = bob.received();
    let (first, last) = (received.first().expect("some"), received.last().expect("some"));
    assert_eq!((received.len(), last - first), (50, 49));
    let text = running.registry.encode();
    assert!(text.contains("causeway_media_packets_forwarded_total 50\n"), "{text}");
    running.handle.shutdown();
}
