//! `causeway turn` in coturn's place: its options and its file, its signals, its pid and log files.

use std::net::UdpSocket;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::server::{Folder, causeway, free_port};

/// Long enough for a debug build on a busy machine; waited for only when something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running relay, ended with the test.
struct Relay {
    folder: Folder,
    process: Child,
    port: u16,
}

impl Relay {
    /// Starts with these lines in its file, beside where it listens.
    fn start(lines: &str) -> Self {
        let (folder, port) = (Folder::new(), free_port());
        let path = folder.path().display();
        let conf = format!(
            "listening-ip=127.0.0.1\nlistening-port={port}\nrealm=test\nno-tls\nno-dtls\npidfile={path}/pid\n\
             log-file={path}/log\n{lines}\n"
        );
        std::fs::write(folder.path().join("turnserver.conf"), conf).expect("written");
        let process = causeway(&folder, &["turn", "-c", &format!("{path}/turnserver.conf")]).spawn();
        let relay = Self { folder, process: process.expect("the binary starts"), port };
        relay.until("it answers", || binding(relay.port).is_some());
        relay.until("the pid file is there", || relay.file("pid").trim() == relay.process.id().to_string());
        relay
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).expect("it runs");
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}; log:\n{}", self.file("log"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ended(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.process.try_wait().expect("it is our child") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it did not end; log:\n{}", self.file("log"));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}

fn ask(port: u16, request: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    socket.send_to(request, ("127.0.0.1", port)).ok()?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

/// The answer's type when it answers a Binding request (RFC 8489 §5).
fn binding(port: u16) -> Option<[u8; 2]> {
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
    ask(port, &request)?.first_chunk().copied()
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = causeway(&Folder::new(), arguments).output().expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text.into_owned())
}

#[test]
fn it_serves_reopens_its_log_drains_and_leaves_no_pid_file() {
    let mut relay = Relay::start("use-auth-secret\nstatic-auth-secret=north");
    assert_eq!(binding(relay.port), Some([1, 1]), "a success");
    std::fs::rename(relay.folder.path().join("log"), relay.folder.path().join("log.1")).expect("moved");
    relay.signal(Signal::HUP);
    relay.until("the log is opened again", || relay.file("log").contains("opened again"));
    relay.signal(Signal::USR2);
    relay.until("the file is read again", || relay.file("log").contains("read again"));
    relay.signal(Signal::USR1);
    assert_eq!(relay.ended(), Some(0), "nobody is there, so a drain ends at once");
    assert!(relay.file("log").contains("draining"));
    assert!(!relay.folder.path().join("pid").exists());
}

#[test]
fn sigterm_ends_it_and_exits_0() {
    let mut relay = Relay::start("user=alice:wonderland");
    relay.signal(Signal::TERM);
    assert_eq!(relay.ended(), Some(0));
}

#[test]
fn what_is_switched_off_is_off() {
    let relay = Relay::start("user=alice:wonderland\nno-tcp");
    assert!(std::net::TcpStream::connect(("127.0.0.1", relay.port)).is_err(), "no-tcp");
    assert!(binding(relay.port).is_some());
}

#[test]
fn metrics_are_served_where_prometheus_looks() {
    let port = free_port();
    let relay = Relay::start(&format!("user=a:b\nprometheus\nprometheus-port={port}"));
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, request).expect("sent");
    let text = std::io::read_to_string(stream).expect("an answer");
    assert!(text.contains("turn_allocations 0"), "{text}; log:\n{}", relay.file("log"));
}

#[test]
fn a_daemon_serves_when_its_parent_returns() {
    let (folder, port) = (Folder::new(), free_port());
    let pid_file = folder.path().join("pid");
    let arguments = [
        "turn",
        "-n",
        "-o",
        "--listening-ip=127.0.0.1",
        &format!("--listening-port={port}"),
        "--no-tls",
        "--no-dtls",
        "--user=a:b",
        "--realm=test",
        "--log-file=/dev/null",
        &format!("--pidfile={}", pid_file.display()),
    ];
    let status = causeway(&folder, &arguments).status().expect("the binary starts");
    assert_eq!(status.code(), Some(0));
    let pid: i32 = std::fs::read_to_string(&pid_file).expect("written").trim().parse().expect("a number");
    assert_eq!(binding(port), Some([1, 1]));
    let pid = Pid::from_raw(pid).expect("not 0");
    kill_process(pid, Signal::TERM).expect("it runs");
    let end = Instant::now() + PATIENCE;
    while pid_file.exists() {
        assert!(Instant::now() < end, "the daemon did not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, text) =
        run(&["turn", "-n", "-o", "--listening-ip=192.0.2.1", "--user=a:b", "--no-tls", "--no-dtls"]);
    assert_eq!(code, Some(2), "an address that is not ours: {text}");
    assert!(text.contains("192.0.2.1"), "{text}");
}

#[test]
fn check_config_says_what_every_key_became() {
    let folder = Folder::new();
    let path = folder.path().join("turnserver.conf");
    let check = |text: &str| {
        std::fs::write(&path, text).expect("written");
        run(&["check-config", "-c", path.to_str().expect("a path of ours")])
    };
    let (code, text) = check("realm=example.org\nstatic-auth-secret=north\nmobility\n");
    assert_eq!(code, Some(0), "{text}");
    for expected in
        ["line 1: realm = example.org", "line 2: static-auth-secret = (5 bytes)", "line 3: mobility (warning"]
    {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    let (code, text) = check("realm=example.org\noauth\n");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("line 2: oauth (refused"), "{text}");
    let (code, text) = run(&["turn", "-c", path.to_str().expect("a path of ours")]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("line 2: oauth") && text.trim().lines().count() == 1, "one line: {text}");
    let (code, text) = run(&["turn", "-c", "/nonexistent/turnserver.conf"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("/nonexistent/turnserver.conf"), "{text}");
}

#[test]
fn the_combined_binary_takes_the_file_too() {
    let (folder, port) = (Folder::new(), free_port());
    let path = folder.path().join("turnserver.conf");
    std::fs::write(
        &path,
        format!("listening-ip=127.0.0.1\nlistening-port={port}\nuser=a:b\nno-tls\nno-dtls\n"),
    )
    .expect("written");
    let set = format!("turn.turnserver_conf={}", path.display());
    let media = format!("media.port={}", free_port());
    let sets = ["http.listen=127.0.0.1:0", &media, "media.workers=1", &set];
    let arguments: Vec<&str> =
        ["--dev"].into_iter().chain(sets.into_iter().flat_map(|set| ["--set", set])).collect();
    let process = causeway(&folder, &arguments).spawn().expect("the binary starts");
    let relay = Relay { folder, process, port };
    relay.until("it answers", || binding(port).is_some());
    let (code, text) = run(&["--dev", "--set", &set, "--set", "turn.realm=x"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("turn.realm") && text.contains("turnserver_conf"), "{text}");
}
