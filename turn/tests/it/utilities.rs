//! Other people's clients in one process with the relay: coturn's utilities with what only some deployments have (both
//! families, RFC 5780, time-limited credentials), and aioice.
//!
//! The utilities are in Debian's package `coturn`, aioice comes from PyPI into the target folder. Where something is not to
//! be had the tests say so and check nothing. `tests/it/coturn_client.rs` has the usual flags against the whole binary.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::turn_credentials;
use turn::net::TurnHandle;
use turn::relay::RelayIp;
use turn::settings::{Discovery, Settings};

use crate::client::{addr, secret};
use crate::loopback::start_with;
use crate::secure::Pem;

const CLIENTS: u32 = 4;
const MESSAGES: u32 = 30;
/// After this a client has failed: some wait for ever for what does not come.
const PATIENCE_SECONDS: &str = "120";

fn skip(what: &str) {
    // Not `println!`, which the harness keeps to itself when a test passes.
    writeln!(std::io::stderr(), "SKIPPED {what}").expect("stderr is open");
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("-h").stdin(Stdio::null()).output().is_ok();
    if !found {
        skip(&format!("{program} is not installed (Debian package coturn)"));
    }
    found
}

/// Runs it to its end and returns what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let command = Command::new("timeout").args([PATIENCE_SECONDS, program]).args(arguments).output();
    let output = command.expect("timeout is installed");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}", output.status);
    text.into_owned()
}

/// `turnutils_peer`, ended with the test.
struct Echo {
    process: Child,
    address: SocketAddr,
}

impl Echo {
    fn start(ip: &str) -> Self {
        let address = SocketAddr::new(ip.parse().expect("an address"), free_port(ip));
        let process = Command::new("turnutils_peer")
            .args(["-L", ip, "-p", &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it is installed");
        Self { process, address }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}

/// Free for UDP and TCP at this moment.
fn free_port(ip: &str) -> u16 {
    loop {
        let udp = UdpSocket::bind((ip, 0)).expect("a port");
        let port = udp.local_addr().expect("bound").port();
        if TcpListener::bind((ip, port)).is_ok() {
            return port;
        }
    }
}

/// Listens and relays on loopback of both families, which are allowed as peers.
fn both_families(settings: &mut Settings) {
    settings.listen = vec![addr("127.0.0.1:0"), addr("[::1]:0")];
    settings.relay.relay_ips =
        ["127.0.0.1", "::1"].map(|ip| RelayIp::direct(ip.parse().expect("an address"))).into();
    settings.relay.allowed_peers.push("::1/128".parse().expect("a net"));
}

/// Runs `turnutils_uclient` with time-limited credentials and these flags; nothing is to be lost.
fn uclient(server: SocketAddr, peer: &str, flags: &[&str]) {
    if !is_installed("turnutils_uclient") || !is_installed("turnutils_peer") {
        return;
    }
    let echo = Echo::start(peer);
    let (port, peer_port) = (server.port().to_string(), echo.address.port().to_string());
    let (clients, messages) = (CLIENTS.to_string(), MESSAGES.to_string());
    let secret = String::from_utf8(secret().0).expect("text");
    let usual = ["-W", &secret, "-u", "probe", "-p", &port, "-e", peer, "-r", &peer_port];
    let amount = ["-l", "170", "-z", "10", "-m", &clients, "-n", &messages];
    let ip = server.ip().to_string();
    let text = run("turnutils_uclient", &[&usual[..], &amount, flags, &[&ip]].concat());
    assert!(text.contains("Total lost packets 0 (0.000000%)"), "{flags:?}:\n{text}");
    assert!(!text.contains("tot_recv_msgs=0\n"), "{flags:?}:\n{text}");
}

/// The listeners of a relay of both families: IPv4, IPv6.
fn listeners(handle: &TurnHandle) -> [SocketAddr; 2] {
    let &[v4, v6] = handle.addresses() else { panic!("two listeners") };
    [v4, v6]
}

#[test]
fn time_limited_credentials() {
    let (handle, _media, _registry) = start_with(both_families);
    let [v4, _] = listeners(&handle);
    uclient(v4, "127.0.0.1", &["-c"]);
}

#[test]
fn relayed_addresses_of_the_other_family_and_of_the_own() {
    let (handle, _media, _registry) = start_with(both_families);
    let [v4, v6] = listeners(&handle);
    uclient(v4, "::1", &["-c", "-x"]);
    uclient(v6, "127.0.0.1", &["-c", "-X"]);
    uclient(v6, "::1", &["-c", "-x", "-t"]);
    uclient(v4, "127.0.0.1", &["-c", "-X", "-y"]);
}

#[test]
fn relayed_addresses_of_both_families() {
    let (handle, _media, _registry) = start_with(both_families);
    let [v4, v6] = listeners(&handle);
    uclient(v4, "127.0.0.1", &["-Z"]);
    uclient(v4, "::1", &["-Z", "-t"]);
    uclient(v6, "::1", &["-Z", "-s"]);
}

#[test]
fn extra_requests_and_clients_that_leave() {
    let (handle, _media, _registry) = start_with(both_families);
    let [v4, v6] = listeners(&handle);
    uclient(v4, "127.0.0.1", &["-c", "-G"]);
    uclient(v4, "127.0.0.1", &["-c", "-B"]);
    uclient(v6, "::1", &["-c", "-x", "-G", "-B", "-t"]);
}

#[test]
fn stunclient_learns_its_address() {
    if !is_installed("turnutils_stunclient") {
        return;
    }
    let (handle, _media, _registry) = start_with(both_families);
    for server in listeners(&handle) {
        let text = run("turnutils_stunclient", &["-p", &server.port().to_string(), &server.ip().to_string()]);
        assert!(text.contains(&format!("UDP reflexive addr: {}", loopback_of(server))), "{text}");
    }
}

/// As coturn writes it, up to the port.
fn loopback_of(server: SocketAddr) -> &'static str {
    if server.is_ipv4() { "127.0.0.1:" } else { "::1:" }
}

#[test]
fn natdiscovery_finds_no_nat() {
    if !is_installed("turnutils_natdiscovery") {
        return;
    }
    let ports = [free_port("127.0.0.1"), free_port("127.0.0.1")];
    let (_handle, _media, _registry) = start_with(|settings| {
        settings.listen = vec![SocketAddr::new(addr("127.0.0.1:0").ip(), ports[0])];
        let ips = ["127.0.0.1", "127.0.0.2"].map(|ip| RelayIp::direct(ip.parse().expect("an address")));
        settings.relay.discovery = vec![Discovery { ips, ports }];
    });
    let text = run(
        "turnutils_natdiscovery",
        &["-m", "-f", "-p", &ports[0].to_string(), "-L", "127.0.0.1", "127.0.0.1"],
    );
    for found in ["No NAT! (Endpoint Independent Mapping)", "Endpoint Independent Filtering"] {
        assert!(text.contains(found), "no {found:?} in:\n{text}");
    }
}

/// A Python with aioice, made once in the target folder; `None` where it cannot be had.
fn aioice() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("aioice");
    let python = folder.join("bin/python");
    let works = |python: &Path| {
        Command::new(python)
            .args(["-c", "import aioice"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !works(&python) {
        let folder = folder.display().to_string();
        let pip = format!("{folder}/bin/pip");
        let install = ["install", "--quiet", "--disable-pip-version-check", "aioice==0.13.0"];
        let made = Command::new("python3").args(["-m", "venv", &folder]).output();
        made.and_then(|_| Command::new(pip).args(install).output()).ok()?;
    }
    works(&python).then_some(python)
}

#[test]
fn aioice_is_relayed_over_udp_tcp_and_tls() {
    let Some(python) = aioice() else {
        return skip("aioice: PyPI cannot be reached, or there is no python3");
    };
    let pem = Pem::new("aioice");
    let (handle, _media, _registry) = start_with(|settings| settings.tls = Some(pem.files()));
    let (user, password) = turn_credentials::mint(&secret(), "ann", u64::from(u32::MAX));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/aioice_client.py");
    let (port, script) = (handle.addresses()[0].port().to_string(), script.display().to_string());
    let cert = pem.files().cert.display().to_string();
    let text = run(&python.display().to_string(), &[&script, &port, &user, &password, &cert]);
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        ["relayed over udp", "relayed over tcp", "relayed over tls"]
    );
}
