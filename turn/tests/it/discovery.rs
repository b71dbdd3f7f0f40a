//! NAT behaviour discovery: which of four sockets answers, to which port, and to whom not (RFC 5780).

use std::net::SocketAddr;

use turn::metrics::DropReason;
use turn::relay::{ClientAddr, Output, RelayConfig, RelayIp, Transport};
use turn::settings::{Discovery, Settings};
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::{Message, Writer};

use crate::client::{addr, address, attribute, code};
use crate::core::{A, World, config, udp};

fn discovery() -> Discovery {
    use std::net::{IpAddr, Ipv4Addr};
    let ip = |host| IpAddr::V4(Ipv4Addr::new(10, 0, 0, host));
    let shown = |host| IpAddr::V4(Ipv4Addr::new(198, 51, 100, host));
    Discovery {
        ips: [RelayIp { bound: ip(1), shown: shown(1) }, RelayIp { bound: ip(2), shown: shown(2) }],
        ports: [3478, 3479],
    }
}

fn world() -> World {
    World::new(RelayConfig { discovery: vec![discovery()], ..config() })
}

fn binding(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new(Class::Request, Method::BINDING, TransactionId([3; 12]));
    fill(&mut writer);
    writer.finish()
}

/// From where, to where, and what.
fn answer(world: &mut World, at: ClientAddr, request: &[u8]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    match &world.client(at, request)[..] {
        [Output::Reply { client, data }] => (client.local, client.remote, data.clone()),
        outputs => panic!("{outputs:?}"),
    }
}

fn plain_address(answer: &[u8], kind: Kind) -> SocketAddr {
    let value = attribute(answer, kind).expect("it is there");
    let ip: [u8; 4] = value[4..].try_into().expect("IPv4");
    SocketAddr::from((ip, u16::from_be_bytes([value[2], value[3]])))
}

#[test]
fn an_answer_leaves_from_the_socket_that_is_asked_for() {
    let mut world = world();
    for (to, change, from) in [
        ("10.0.0.1:3478", 0, "10.0.0.1:3478"),
        ("10.0.0.1:3478", 2, "10.0.0.1:3479"),
        ("10.0.0.1:3478", 4, "10.0.0.2:3478"),
        ("10.0.0.1:3478", 6, "10.0.0.2:3479"),
        ("10.0.0.2:3479", 6, "10.0.0.1:3478"),
        ("10.0.0.2:3478", 2, "10.0.0.2:3479"),
    ] {
        let at = ClientAddr { local: addr(to), ..udp(A) };
        let request = binding(|w| {
            w.number(Kind::CHANGE_REQUEST, change);
        });
        let (local, remote, data) = answer(&mut world, at, &request);
        assert_eq!((local, remote), (addr(from), addr(A)), "{to} {change}");
        assert_eq!(address(&data, Kind::XOR_MAPPED_ADDRESS), addr(A));
        assert_eq!(plain_address(&data, Kind::MAPPED_ADDRESS), addr(A));
        let shown = |text: &str| addr(&text.replace("10.0.0", "198.51.100"));
        assert_eq!(plain_address(&data, Kind::RESPONSE_ORIGIN), shown(from));
        let other = plain_address(&data, Kind::OTHER_ADDRESS);
        assert!(other.ip() != shown(to).ip() && other.port() != shown(to).port(), "{other}");
    }
}

#[test]
fn the_response_port_and_padding_are_honoured_but_not_together() {
    let mut world = world();
    let at = udp(A);
    let request = binding(|w| {
        w.attribute(Kind::RESPONSE_PORT, &[0x12, 0x34, 0, 0]);
    });
    let (_, remote, data) = answer(&mut world, at, &request);
    assert_eq!((remote.ip(), remote.port()), (addr(A).ip(), 0x1234));
    assert_eq!(address(&data, Kind::XOR_MAPPED_ADDRESS), addr(A));

    let padded = binding(|w| {
        w.attribute(Kind::PADDING, &[0; 1400]);
    });
    let (_, _, data) = answer(&mut world, at, &padded);
    assert_eq!(data.len(), padded.len(), "as large as the request, and not larger");
    let little = binding(|w| {
        w.attribute(Kind::PADDING, &[0; 4]);
    });
    assert_eq!(attribute(&answer(&mut world, at, &little).2, Kind::PADDING), None);

    for bad in [
        binding(|w| {
            w.attribute(Kind::PADDING, &[0; 8]).attribute(Kind::RESPONSE_PORT, &[1, 2, 0, 0]);
        }),
        binding(|w| {
            w.attribute(Kind::RESPONSE_PORT, &[0, 0, 0, 0]);
        }),
        binding(|w| {
            w.attribute(Kind::RESPONSE_PORT, &[1]);
        }),
        binding(|w| {
            w.attribute(Kind::CHANGE_REQUEST, &[0, 6]);
        }),
    ] {
        let (local, remote, data) = answer(&mut world, at, &bad);
        assert_eq!((local, remote, code(&data)), (at.local, at.remote, 400));
    }
}

#[test]
fn elsewhere_its_attributes_are_unknown() {
    let request = binding(|w| {
        w.number(Kind::CHANGE_REQUEST, 6);
    });
    let tcp = ClientAddr { transport: Transport::Tcp(turn::relay::ConnectionId(1)), ..udp(A) };
    let other_port = ClientAddr { local: addr("10.0.0.1:5349"), ..udp(A) };
    for (mut world, at) in [(World::new(config()), udp(A)), (world(), tcp), (world(), other_port)] {
        let (local, _, data) = answer(&mut world, at, &request);
        assert_eq!((local, code(&data)), (at.local, 420));
        let plain = answer(&mut world, at, &binding(|_| ())).2;
        assert_eq!(Message::parse(&plain).expect("well-formed").attributes().count(), 1);
    }
}

#[test]
fn what_a_forger_could_use_is_rationed() {
    let mut world =
        World::new(RelayConfig { discovery: vec![discovery()], stranger_answers_per_second: 5, ..config() });
    let request = binding(|w| {
        w.number(Kind::CHANGE_REQUEST, 2);
    });
    let answered = (0..100).filter(|_| !world.client(udp(A), &request).is_empty()).count();
    assert_eq!((answered, world.dropped(DropReason::StrangerLimit)), (10, 90));
}

#[test]
fn the_sockets_that_are_missing_are_listened_at() {
    let listening = |listen: &[&str]| {
        let relay = RelayConfig { discovery: vec![discovery()], ..config() };
        let listen = listen.iter().map(|text| addr(text)).collect();
        let missing = Settings { listen, relay, ..Settings::default() }.discovery_listen();
        missing.iter().map(SocketAddr::to_string).collect::<Vec<_>>()
    };
    assert_eq!(listening(&["10.0.0.1:3478"]), ["10.0.0.1:3479", "10.0.0.2:3478", "10.0.0.2:3479"]);
    assert_eq!(listening(&["0.0.0.0:3478"]), ["10.0.0.1:3479", "10.0.0.2:3479"]);
    assert_eq!(listening(&["[::]:3478"]).len(), 4);
}

/// coturn's client on loopback, where every socket is reached and no NAT is between.
#[cfg(feature = "net")]
#[test]
fn coturns_natdiscovery_finds_neither_mapping_nor_filtering() {
    use std::net::{IpAddr, Ipv4Addr, UdpSocket};
    use std::process::Command;

    if Command::new("turnutils_natdiscovery").output().is_err() {
        let reason = b"SKIPPED natdiscovery: it is not installed (Debian package coturn)\n";
        return std::io::Write::write_all(&mut std::io::stderr(), reason).expect("stderr is open");
    }
    let ip = |last| RelayIp::direct(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)));
    let free = [(); 2].map(|()| UdpSocket::bind("0.0.0.0:0").expect("a free port"));
    let ports = free.each_ref().map(|socket| socket.local_addr().expect("bound").port());
    drop(free);
    let (handle, ..) = crate::loopback::start_with(|settings| {
        settings.relay.discovery = vec![Discovery { ips: [ip(1), ip(2)], ports }];
    });
    let output = Command::new("timeout")
        .args(["60", "turnutils_natdiscovery", "-m", "-f", "-p", &ports[0].to_string(), "127.0.0.1"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    handle.shutdown();
    for verdict in ["Endpoint Independent Mapping", "Endpoint Independent Filtering"] {
        assert!(text.contains(verdict), "{text}");
    }
}
