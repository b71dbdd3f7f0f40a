//! `causeway load` against a running server: everybody joins, nothing is lost, and what is wrong is named.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::server::{Folder, SECRET, Server, causeway};

fn load(arguments: &[&str]) -> Output {
    let folder = Folder::new();
    let arguments: Vec<&str> = ["load"].into_iter().chain(arguments.iter().copied()).collect();
    causeway(&folder, &arguments).output().expect("the binary starts")
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {output:?}"))
}

#[test]
fn two_publishers_reach_three_subscribers() {
    let server = Server::start_deployed(&[]);
    let url = format!("ws://{}", server.http);
    let pid = server.pid().to_string();
    let output = load(&[
        "--url",
        &url,
        "--secret",
        SECRET,
        "--publishers",
        "2",
        "--subscribers",
        "3",
        "--video",
        "300kbps",
        "--audio",
        "--seconds",
        "2",
        "--server-pid",
        &pid,
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = report(&output);
    assert_eq!((&report["joinsOk"], &report["joinsFailed"]), (&5.into(), &0.into()), "{report}");
    // 2 × (50 + 60) packets a second reach three; a busy machine may be late, not lossy.
    assert!(report["packetsReceived"].as_u64() > Some(600), "{report}");
    assert_eq!(report["packetsLost"], 0, "{report}");
    for number in ["/joinMs/p99", "/delayMs/p50", "/delayMs/p99", "/delayMs/max", "/server/cpuNsPerPacket"] {
        assert!(report.pointer(number).is_some_and(Value::is_f64), "{number} in {report}");
    }
    assert!(report["server"]["rssBytes"].as_u64() > Some(0), "{report}");
}

#[test]
fn of_three_encodings_subscribers_get_one() {
    let server = Server::start();
    let url = format!("http://{}", server.http);
    let output = load(&["--url", &url, "--subscribers", "2", "--simulcast", "--seconds", "2", "--json"]);
    let report = report(&output);
    assert_eq!((&report["joinsOk"], &report["packetsLost"]), (&3.into(), &0.into()), "{report}");
    // 30 × (1 + 2 + 6) packets a second are sent; the largest encoding, six of nine, goes to both.
    let count = |name: &str| report[name].as_f64().expect("a number");
    let share = count("packetsReceived") / count("packetsSent");
    assert!((0.5..1.6).contains(&share), "{report}");
}

/// Every so many RTP packets to a client are lost.
const LOST_EACH: usize = 20;

/// Stands at 127.0.0.2 in front of a media port of 127.0.0.1, and loses some of what clients are sent.
struct Lossy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Lossy {
    fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let door = socket(SocketAddr::from(([127, 0, 0, 2], port)));
        let (stopped, server) = (Arc::clone(&stop), SocketAddr::from(([127, 0, 0, 1], port)));
        let threads = vec![thread::spawn(move || {
            let (mut clients, mut datagram) = (HashMap::new(), [0; 2048]);
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, client)) = door.recv_from(&mut datagram) else { continue };
                let way = clients.entry(client).or_insert_with(|| {
                    let way = socket(SocketAddr::from(([127, 0, 0, 1], 0)));
                    way.connect(server).expect("loopback");
                    let (back, door) =
                        (way.try_clone().expect("a descriptor"), door.try_clone().expect("likewise"));
                    let stopped = Arc::clone(&stopped);
                    (way, thread::spawn(move || carry_back(&back, &door, client, &stopped)))
                });
                let _ = way.0.send(&datagram[..length]); // like any datagram, it may be lost
            }
            clients.into_values().for_each(|(_, thread)| thread.join().expect("it does not panic"));
        })];
        Self { stop, threads }
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn socket(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    socket
}

fn carry_back(way: &UdpSocket, door: &UdpSocket, client: SocketAddr, stopped: &AtomicBool) {
    let (mut media, mut datagram) = (0, [0; 2048]);
    while !stopped.load(Ordering::Relaxed) {
        let Ok(length) = way.recv(&mut datagram) else { continue };
        let is_media = (128..192).contains(&datagram[0]) && !(192..224).contains(&datagram[1]);
        media += usize::from(is_media);
        if !is_media || media % LOST_EACH != 0 {
            let _ = door.send_to(&datagram[..length], client); // as above
        }
    }
}

#[test]
fn what_is_lost_on_the_way_is_asked_for_and_sent_again() {
    let server = Server::start_with(&["media.announced_ip=127.0.0.2"]);
    let lossy = Lossy::start(server.media_port);
    let url = format!("http://{}", server.http);
    let output = load(&[
        "--url",
        &url,
        "--subscribers",
        "2",
        "--video",
        "600kbps",
        "--audio",
        "--seconds",
        "3",
        "--json",
    ]);
    drop(lossy);
    let report = report(&output);
    assert_eq!(report["joinsOk"], 3, "{output:?}");
    let count = |name: &str| report[name].as_u64().expect("a number");
    // Of video one in twenty; audio is not sent again, and of 150 packets to each of the two some eight are lost for good.
    assert!(count("packetsRecovered") > 10 && count("packetsAsked") >= count("packetsRecovered"), "{report}");
    assert!(count("packetsLost") < count("packetsRecovered") + 30, "{report}");
    assert!(count("packetsReceived") > 600, "{report}");
}

#[test]
fn publishers_in_step_lose_nothing() {
    let server = Server::start();
    let url = format!("http://{}", server.http);
    let output = load(&[
        "--url",
        &url,
        "--publishers",
        "28",
        "--subscribers",
        "1",
        "--video",
        "300kbps",
        "--seconds",
        "2",
        "--json",
    ]);
    let report = report(&output);
    assert_eq!((&report["joinsOk"], &report["packetsLost"]), (&29.into(), &0.into()), "{report}");
}

#[test]
fn what_is_wrong_is_named() {
    let server = Server::start_deployed(&[]);
    let url = format!("ws://{}", server.http);
    for (arguments, code, named) in [
        (&["--url", "nonsense", "--audio"][..], 2, "--url"),
        (&["--url", &url], 2, "--video, --simulcast, --audio"),
        (&["--url", &url, "--audio", "--server-pid", "4294967295"], 2, "--server-pid"),
        (
            &["--url", &url, "--audio", "--seconds", "1", "--secret", "not the server's secret, but as long"],
            1,
            "Authentication failed",
        ),
        (&["--url", &url, "--audio", "--seconds", "1"], 1, "--secret"),
        (
            &["--url", "ws://127.0.0.1:9", "--audio", "--seconds", "1"],
            1,
            "load-p0 in load-0: cannot reach 127.0.0.1:9",
        ),
    ] {
        let output = load(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(named), "{arguments:?}: {said}");
    }
}
