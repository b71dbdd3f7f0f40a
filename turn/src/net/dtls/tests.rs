//! A client of the same library, a network that is a queue, and strangers.

use common::config::TlsFiles;

use super::cookie::PERIOD;
use super::hello::tests::{client_hello, requested_cookie};
use super::*;

/// A certificate and its key in a folder that goes with the test.
struct Pem(std::path::PathBuf);

impl Pem {
    fn new(name: &str, key: &rcgen::KeyPair) -> Self {
        let folder = std::env::temp_dir().join(format!("causeway-dtls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let cert = params.self_signed(key).expect("signed").pem();
        std::fs::write(folder.join("cert.pem"), cert).expect("writable");
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).expect("writable");
        Self(folder)
    }

    fn certificate(&self) -> Arc<Certificate> {
        let files = TlsFiles { cert: self.0.join("cert.pem"), key: self.0.join("key.pem") };
        Certificate::load("turn.tls", files).expect("a good pair")
    }
}

impl Drop for Pem {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ecdsa() -> rcgen::KeyPair {
    rcgen::KeyPair::generate().expect("a key")
}

struct World {
    sessions: Sessions,
    registry: Registry,
    now: Instant,
    _pem: Pem,
}

/// What came of one datagram.
#[derive(Default)]
struct Outcome {
    transmit: Vec<Vec<u8>>,
    plain: Vec<Vec<u8>>,
    gone: usize,
}

impl Outcome {
    fn note(&mut self, event: Event<'_>) {
        match event {
            Event::Transmit(packet) => self.transmit.push(packet.to_vec()),
            Event::Plain(data) => self.plain.push(data.to_vec()),
            Event::Gone => self.gone += 1,
        }
    }
}

impl World {
    fn new(name: &str) -> Self {
        let pem = Pem::new(name, &ecdsa());
        let (registry, now) = (Registry::new(), Instant::now());
        let sessions = Sessions::new(pem.certificate(), &[7; 32], &registry, now);
        Self { sessions, registry, now, _pem: pem }
    }

    fn receive(&mut self, client: ClientAddr, datagram: &[u8]) -> Outcome {
        let mut outcome = Outcome::default();
        assert!(is_dtls(datagram));
        self.sessions.receive(self.now, client, datagram, &mut |event| outcome.note(event));
        outcome
    }

    fn pass(&mut self, time: Duration, has_allocation: bool) -> Outcome {
        self.now += time;
        let mut outcome = Outcome::default();
        self.sessions.handle_timeout(self.now, |_| has_allocation, |_, event| outcome.note(event));
        outcome
    }

    fn refused(&self, reason: &'static str) -> u64 {
        self.sessions.refused.with(reason).get()
    }

    fn is_empty(&self) -> bool {
        let sessions = &self.sessions;
        sessions.by_client.is_empty() && sessions.half_open.is_empty() && sessions.deadlines.is_empty()
    }

    /// Shakes hands with a new client at this address.
    fn connect(&mut self, at: ClientAddr) -> Dtls {
        let config = Config::builder().build().expect("a configuration");
        let key = ecdsa();
        let params = rcgen::CertificateParams::new(["client".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("signed").der().to_vec();
        let certificate = DtlsCertificate { certificate, private_key: key.serialize_der() };
        let mut client = Dtls::new_12(Arc::new(config), certificate, self.now);
        client.set_active(true);
        client.handle_timeout(self.now).expect("begins");
        let mut connected = false;
        let mut buffer = vec![0; 4096];
        for _ in 0..10 {
            let mut said = Outcome::default();
            connected |= drain(&mut client, &mut buffer, &mut |event| said.note(event)).connected;
            for packet in said.transmit {
                for answer in self.receive(at, &packet).transmit {
                    client.handle_packet(&answer).expect("taken");
                }
            }
        }
        assert!(connected);
        client
    }
}

fn from(text: &str) -> ClientAddr {
    let address = |text: &str| text.parse().expect("an address");
    ClientAddr { transport: Transport::Udp, remote: address(text), local: address("192.0.2.1:5349") }
}

fn say(client: &mut Dtls, data: &[u8]) -> Vec<Vec<u8>> {
    client.send_application_data(data).expect("connected");
    let mut said = Outcome::default();
    drain(client, &mut vec![0; 4096], &mut |event| said.note(event));
    said.transmit
}

#[test]
fn a_client_shakes_hands_talks_and_says_goodbye() {
    let mut world = World::new("talk");
    let at = from("198.51.100.1:1000");
    let mut client = world.connect(at);
    assert!(world.sessions.half_open.is_empty(), "it is done");
    for length in [1, 1400, 9000] {
        let packets = say(&mut client, &vec![5; length]);
        assert_eq!(world.receive(at, &packets[0]).plain, [vec![5; length]]);
        let dtls = ClientAddr { transport: Transport::Dtls, ..at };
        let mut answer = Outcome::default();
        assert!(
            world.sessions.send(&dtls, [b"head", &vec![6; length], &[0]], &mut |event| answer.note(event))
        );
        client.handle_packet(&answer.transmit[0]).expect("taken");
        let mut heard = Outcome::default();
        drain(&mut client, &mut vec![0; 16_000], &mut |event| heard.note(event));
        assert_eq!(heard.plain, [[&b"head"[..], &vec![6; length], &[0]].concat()]);
        assert!(
            !world.sessions.send(&dtls, [b"", &[0; PLAINTEXT_BYTES_MAX + 1], b""], &mut |_| {}),
            "too long"
        );
    }
    client.close().expect("connected");
    let mut said = Outcome::default();
    drain(&mut client, &mut vec![0; 4096], &mut |event| said.note(event));
    assert_eq!(world.receive(at, &said.transmit[0]).gone, 1);
    assert!(world.is_empty());
    assert!(world.registry.encode().contains("turn_connections_total{transport=\"dtls\"} 1"));
}

#[test]
fn strangers_cost_no_memory_and_get_no_more_than_they_send() {
    let mut world = World::new("strangers");
    let hello = |stranger: u32| client_hello(stranger as u8, 0, &[], 0);
    for stranger in 0..60_000 {
        let at = from(&format!("198.{}.{}.1:{}", stranger / 250, stranger % 250, 1000 + stranger % 7));
        let answers = world.receive(at, &hello(stranger)).transmit;
        assert!(answers.len() == 1 && answers[0].len() <= hello(stranger).len());
        assert!(requested_cookie(&answers[0]).is_some());
    }
    assert!(world.is_empty());

    let at = from("203.0.113.1:1");
    let answers = (0..1000).map(|stranger| world.receive(at, &hello(stranger)).transmit.len()).sum::<usize>();
    assert!(answers <= 2 * STRANGER_ANSWERS_PER_SECOND as usize, "no victim gets {answers} from us");
    assert_eq!(world.refused("stranger_limit"), 1000 - answers as u64);
    world.receive(at, &hello(1)[..20]);
    assert_eq!(world.refused("unknown"), 1, "what is no hello is looked at no further");
    assert!(world.is_empty());
}

#[test]
fn a_cookie_is_of_one_address_and_some_time() {
    let mut world = World::new("cookie");
    let at = from("198.51.100.1:1000");
    let answer = world.receive(at, &client_hello(9, 0, &[], 0)).transmit.remove(0);
    let cookie = requested_cookie(&answer).expect("it has one").to_vec();
    let second = client_hello(9, 0, &cookie, 1);

    for stranger in ["198.51.100.1:1001", "198.51.100.2:1000"] {
        assert!(world.receive(from(stranger), &second).transmit.is_empty());
    }
    assert!(world.receive(at, &client_hello(8, 0, &cookie, 1)).transmit.is_empty(), "another handshake's");
    assert_eq!(world.refused("cookie"), 3);
    assert!(world.is_empty());

    world.now += PERIOD;
    let flight = world.receive(at, &second).transmit;
    assert!(flight.iter().map(Vec::len).sum::<usize>() > 200, "the server's flight");
    assert_eq!(world.sessions.half_open.len(), 1);
    world.pass(HANDSHAKE, false);
    let ended = world.pass(HANDSHAKE, false);
    assert!(ended.gone == 1 && world.is_empty() || world.is_empty(), "nobody came back");
    assert_eq!(world.refused("handshake"), 1);

    world.now += 3 * PERIOD;
    assert!(world.receive(at, &second).transmit.is_empty(), "too old");
    assert!(world.is_empty());
}

#[test]
fn the_oldest_handshakes_make_room_and_those_of_one_network_for_their_own() {
    let mut world = World::new("evicted");
    let begin = |world: &mut World, at: ClientAddr| {
        let answer = world.receive(at, &client_hello(9, 0, &[], 0)).transmit.remove(0);
        let second = client_hello(9, 0, requested_cookie(&answer).expect("it has one"), 1);
        assert!(!world.receive(at, &second).transmit.is_empty());
    };
    let other = from("203.0.113.1:1");
    begin(&mut world, other);
    for client in 0..HALF_OPEN_PER_NETWORK + 5 {
        begin(&mut world, from(&format!("198.51.100.{}:1", client + 1)));
    }
    assert_eq!(world.sessions.half_open.len(), 1 + HALF_OPEN_PER_NETWORK);
    assert_eq!(world.refused("evicted"), 5);
    assert!(world.sessions.by_client.contains_key(&ClientAddr { transport: Transport::Dtls, ..other }));
}

#[test]
fn an_open_session_lives_as_long_as_it_has_an_allocation() {
    let mut world = World::new("idle");
    let at = from("198.51.100.1:1000");
    let mut client = world.connect(at);
    for _ in 0..20 {
        assert_eq!(world.pass(IDLE, true).gone, 0);
    }
    world.pass(IDLE, false);
    let ended = world.pass(IDLE, false);
    assert!(ended.gone <= 1 && world.is_empty());
    assert_eq!(world.refused("idle"), 1);
    if let Some(goodbye) = ended.transmit.first() {
        client.handle_packet(goodbye).expect("taken");
        assert!(drain(&mut client, &mut vec![0; 4096], &mut |_| {}).closed);
    }
}

#[test]
fn a_client_that_begins_anew_takes_its_own_place_and_nobody_elses() {
    let mut world = World::new("anew");
    let at = from("198.51.100.1:1000");
    let mut before = world.connect(at);
    // Somebody who can only send in its name does not end its session.
    assert_eq!(world.receive(at, &client_hello(9, 0, &[], 0)).gone, 0);
    assert_eq!(world.receive(at, &client_hello(9, 0, &[1; 32], 1)).gone, 0);
    let packets = say(&mut before, b"still here");
    assert_eq!(world.receive(at, &packets[0]).plain, [b"still here".to_vec()]);

    let mut after = world.connect(at);
    assert_eq!(world.sessions.by_client.len(), 1);
    let packets = say(&mut after, b"again");
    assert_eq!(world.receive(at, &packets[0]).plain, [b"again".to_vec()]);
}

#[test]
fn an_old_version_is_refused_at_once() {
    let mut world = World::new("version");
    let mut hello = client_hello(9, 0, &[], 0);
    hello[26] = 0xff; // DTLS 1.0
    let answers = world.receive(from("198.51.100.1:1"), &hello).transmit;
    assert_eq!(answers, [[21, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 70]]);
    assert_eq!(world.refused("version"), 1);
}

#[test]
fn a_certificate_that_dtls_cannot_use_is_no_reason_to_fail() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let pem = Pem::new("unusable", &key);
    let (registry, now) = (Registry::new(), Instant::now());
    let mut sessions = Sessions::new(pem.certificate(), &[7; 32], &registry, now);
    let mut answers = 0;
    let at = from("198.51.100.1:1");
    let mut answer = Vec::new();
    sessions.receive(now, at, &client_hello(9, 0, &[], 0), &mut |event| {
        if let Event::Transmit(packet) = event {
            answer = packet.to_vec();
        }
    });
    let second = client_hello(9, 0, requested_cookie(&answer).expect("it has one"), 1);
    sessions.receive(now, at, &second, &mut |event| {
        answers += usize::from(matches!(event, Event::Transmit([21, .., 40])));
    });
    assert_eq!((answers, sessions.refused.with("certificate").get()), (1, 1));
}
