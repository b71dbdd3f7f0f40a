//! coturn's own client against our relay: `turnutils_uclient` sends through it, `turnutils_peer` echoes, nothing is lost.
//!
//! Both are in Debian's package `coturn`. Where they are not installed the tests say so and check nothing.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use crate::server::{Folder, Server, free_port};
use crate::tls::write_certificate;

const CLIENTS: u32 = 4;
const MESSAGES: u32 = 50;

/// `turnutils_peer` on a port of its own, ended with the test.
struct Echo {
    process: Child,
    port: u16,
}

impl Echo {
    fn start() -> Self {
        let port = free_port();
        let process = Command::new("turnutils_peer")
            .args(["-L", &Ipv4Addr::LOCALHOST.to_string(), "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it is installed");
        Self { process, port }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("-h").stdin(Stdio::null()).output().is_ok()
}

/// Runs `turnutils_uclient` with these flags beside the usual ones; with `-S` at the port for TLS and DTLS.
fn check(flags: &[&str]) {
    for program in ["turnutils_uclient", "turnutils_peer"] {
        if !is_installed(program) {
            // Not `println!`, which the harness keeps to itself when a test passes.
            let reason = "is not installed (Debian package coturn)";
            writeln!(std::io::stderr(), "SKIPPED uclient {flags:?}: {program} {reason}")
                .expect("stderr is open");
            return;
        }
    }
    // Loopback is refused as a peer unless the operator allows it.
    let (folder, tls_port) = (Folder::new(), free_port());
    write_certificate(folder.path());
    let path = folder.path().display();
    let (cert, key) = (format!("turn.tls.cert={path}/cert.pem"), format!("turn.tls.key={path}/key.pem"));
    let tls_listen = format!("turn.tls_listen=127.0.0.1:{tls_port}");
    let allowed = "turn.allowed_peers=[\"127.0.0.0/8\"]";
    let server =
        Server::start_in(folder, &[allowed, "turn.users={probe=\"secret\"}", &cert, &key, &tls_listen]);
    let echo = Echo::start();
    let port = if flags.contains(&"-S") { tls_port } else { server.turn_port };
    let (turn_port, peer_port) = (port.to_string(), echo.port.to_string());
    let (clients, messages) = (CLIENTS.to_string(), MESSAGES.to_string());
    let output = Command::new("timeout") // uclient waits for ever for what does not come
        .args(["120", "turnutils_uclient", "-u", "probe", "-w", "secret", "-p", &turn_port])
        .args(["-e", "127.0.0.1", "-r", &peer_port, "-l", "170", "-z", "10", "-m", &clients, "-n", &messages])
        .args(flags)
        .arg("127.0.0.1")
        .stdin(Stdio::null())
        .output()
        .expect("it is installed");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{flags:?}: {}\n{text}", output.status);
    assert!(text.contains("Total lost packets 0 (0.000000%)"), "{flags:?}:\n{text}");
    let count = |name: &str| -> Option<u32> {
        let (_, rest) = text.rsplit_once(name)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let (sent, received) = (count("tot_send_msgs="), count("tot_recv_msgs="));
    assert!(sent == received && sent >= Some(CLIENTS * MESSAGES), "{sent:?} {received:?}\n{text}");
}

// `-c`: without an RTCP session beside each one, on the port that EVEN-PORT reserves.

#[test]
fn rtp_and_rtcp_on_neighbouring_ports() {
    check(&[]);
}

#[test]
fn channels_over_udp() {
    check(&["-c"]);
}

#[test]
fn send_indications_over_udp() {
    check(&["-c", "-s"]);
}

#[test]
fn channels_over_tcp() {
    check(&["-c", "-t"]);
}

#[test]
fn send_indications_over_tcp() {
    check(&["-c", "-t", "-s"]);
}

#[test]
fn channels_over_tls() {
    check(&["-c", "-t", "-S"]);
}

#[test]
fn send_indications_over_tls() {
    check(&["-c", "-t", "-S", "-s"]);
}

#[test]
fn channels_over_dtls() {
    check(&["-c", "-S"]);
}

#[test]
fn send_indications_over_dtls() {
    check(&["-c", "-S", "-s"]);
}

#[test]
fn client_to_client() {
    check(&["-c", "-y"]);
}

#[test]
fn client_to_client_over_tcp_relays() {
    check(&["-c", "-t", "-T", "-y"]);
}

#[test]
fn padded_channel_data_and_extra_requests_and_dont_fragment() {
    check(&["-c", "-D", "-G", "-g"]);
}
