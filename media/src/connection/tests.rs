//! Two connections, one in each DTLS role, joined by a perfect wire.

use std::time::Duration;

use super::*;

struct Pair {
    now: Instant,
    server: Connection,
    client: Connection,
    events: Vec<(&'static str, ConnectionEvent)>,
}

fn identity() -> std::sync::Arc<Identity> {
    Identity::of_process()
}

fn parameters(role: DtlsRole, fingerprint: DtlsFingerprint) -> DtlsParameters {
    DtlsParameters { role, fingerprints: vec![fingerprint] }
}

impl Pair {
    fn new(client_fingerprint: DtlsFingerprint) -> Self {
        let now = Instant::now();
        let (mut server, mut client) = (Connection::new(now, &identity()), Connection::new(now, &identity()));
        client.connect(now, &parameters(DtlsRole::Server, identity().fingerprint())).expect("first connect");
        server.connect(now, &parameters(DtlsRole::Client, client_fingerprint)).expect("first connect");
        Self { now, server, client, events: Vec::new() }
    }

    fn drain(
        from: &mut Connection,
        to: &mut Connection,
        now: Instant,
        events: &mut Vec<ConnectionEvent>,
    ) -> bool {
        let mut moved = false;
        loop {
            match from.poll_output() {
                ConnectionOutput::Transmit(datagram) => {
                    to.handle_datagram(now, &datagram);
                    moved = true;
                }
                ConnectionOutput::Event(event) => events.push(event),
                ConnectionOutput::Timeout(_) => return moved,
            }
        }
    }

    fn run(&mut self) {
        for _ in 0..400 {
            let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
            let to_client = Self::drain(&mut self.server, &mut self.client, self.now, &mut at_server);
            let to_server = Self::drain(&mut self.client, &mut self.server, self.now, &mut at_client);
            self.events.extend(at_server.into_iter().map(|event| ("server", event)));
            self.events.extend(at_client.into_iter().map(|event| ("client", event)));
            if !to_client && !to_server {
                self.now += Duration::from_millis(20);
                self.server.handle_timeout(self.now);
                self.client.handle_timeout(self.now);
            }
        }
    }

    fn connected(&self, who: &str) -> bool {
        self.events.iter().any(|(at, event)| *at == who && matches!(event, ConnectionEvent::Connected { .. }))
    }
}

#[test]
fn both_ends_get_the_same_keys() {
    let mut pair = Pair::new(identity().fingerprint());
    pair.run();
    assert!(pair.connected("server") && pair.connected("client"));
    let server = pair.server.keys().expect("keys");
    let client = pair.client.keys().expect("keys");
    assert_eq!(server.profile, client.profile);
    assert_eq!(server.profile, str0m::crypto::dtls::SrtpProfile::AEAD_AES_256_GCM);
    assert_eq!(&server.material[..], &client.material[..]);
    assert_eq!(server.material.len(), 2 * (32 + 12));
    let again = pair.server.connect(pair.now, &parameters(DtlsRole::Client, identity().fingerprint()));
    assert_eq!(again, Err(ConnectError::Already));
}

#[test]
fn a_wrong_fingerprint_never_connects() {
    let other = DtlsFingerprint { algorithm: "sha-256".into(), value: ["AB"; 32].join(":") };
    let mut pair = Pair::new(other);
    pair.run();
    assert!(!pair.connected("server"));
    let closed = pair
        .events
        .iter()
        .any(|(at, e)| *at == "server" && matches!(e, ConnectionEvent::Closed("dtls-failed")));
    assert!(closed);
}

#[test]
fn fingerprints_are_checked_before_they_are_used() {
    let check = |algorithm: &str, value: &str, good: bool| {
        let print = DtlsFingerprint { algorithm: algorithm.into(), value: value.into() };
        let mut connection = Connection::new(Instant::now(), &identity());
        let result = connection.connect(Instant::now(), &parameters(DtlsRole::Client, print));
        assert_eq!(result.is_ok(), good, "{algorithm} {value}");
    };
    check("sha-256", &["0a"; 32].join(":"), true);
    check("sha-256", &["0A"; 31].join(":"), false);
    check("sha-256", "0A\r\na=setup:passive", false);
    check("md5", &["0A"; 32].join(":"), false);
}

#[test]
fn messages_keep_their_kind_up_to_the_largest() {
    let mut pair = Pair::new(identity().fingerprint());
    let sctp = SctpStreamParameters {
        stream_id: 5,
        ordered: None,
        max_packet_life_time: None,
        max_retransmits: None,
    };
    pair.server.open_stream(&sctp);
    pair.client.open_stream(&sctp);
    pair.run();
    let largest = vec![7u8; MESSAGE_BYTES_MAX as usize];
    assert!(pair.client.send(5, false, b"text") && !pair.client.send(5, true, &[]));
    assert!(pair.client.send(5, true, &largest));
    assert!(pair.server.send(5, true, &largest));
    pair.run();
    let at = |who: &str| -> Vec<(bool, usize)> {
        let messages = pair.events.iter().filter(|(at, _)| *at == who);
        messages
            .filter_map(|(_, event)| match event {
                ConnectionEvent::Message { stream_id: 5, binary, data } => Some((*binary, data.len())),
                _ => None,
            })
            .collect()
    };
    assert_eq!(at("server"), [(false, 4), (true, largest.len())]);
    assert_eq!(at("client"), [(true, largest.len())]);
}
