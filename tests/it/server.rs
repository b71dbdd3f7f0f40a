//! A Causeway of one test's own: started in dev mode on free ports in a temporary folder, ended by its own id.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Far above anything that is waited for; only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Server {
    child: Child,
    pub http: SocketAddr,
    pub media_port: u16,
    pub turn_port: u16,
    pub folder: Folder,
    log: Arc<Mutex<String>>,
}

/// A temporary folder that goes when the test ends.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("causeway-it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).expect("the temporary folder is writable");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The binary with these arguments in a folder; not started yet.
pub fn causeway(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
    command.args(arguments).current_dir(folder.path()).stdin(Stdio::null());
    command
}

/// A loopback port that is free for UDP and TCP, and not of the range from which the kernel takes ports for others.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(97);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (first.wrapping_add(step) % 20_000) as u16;
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// `settings` are `section.key=value`.
    pub fn start_with(settings: &[&str]) -> Self {
        Self::start_in(Folder::new(), settings)
    }

    pub fn start_in(folder: Folder, settings: &[&str]) -> Self {
        let (media_port, turn_port) = (free_port(), free_port());
        let own = [
            "http.listen=127.0.0.1:0".to_owned(),
            format!("media.port={media_port}"),
            "media.workers=1".to_owned(),
            format!("turn.listen=127.0.0.1:{turn_port}"),
        ];
        let sets = own.iter().map(String::as_str).chain(settings.iter().copied());
        let arguments: Vec<&str> = ["--dev"].into_iter().chain(sets.flat_map(|set| ["--set", set])).collect();
        let mut child = causeway(&folder, &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().expect("piped"), Arc::clone(&log));
        collect(child.stderr.take().expect("piped"), Arc::clone(&log));
        let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut server = Self { child, http: unknown, media_port, turn_port, folder, log };
        server.http = server.wait_for_url();
        server
    }

    /// Everything it has printed.
    pub fn log(&self) -> String {
        self.log.lock().expect("no reader panics").clone()
    }

    /// Waits until `found` sees what it looks for in the log.
    pub fn wait_for<T>(&mut self, what: &str, found: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found(&self.log()) {
                return found;
            }
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                panic!("ended with {status} before {what}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "no {what} in:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn wait_for_url(&mut self) -> SocketAddr {
        self.wait_for("URL", |log| {
            let rest = log.split("://127.0.0.1:").nth(1)?;
            let port = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            rest[port.len()..].starts_with(['/', '\n', ' ']).then_some(())?;
            Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into())
        })
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it is our child");
    }

    /// SIGTERM, and the way it ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
        let log = self.log();
        if !std::thread::panicking() {
            assert!(!log.contains("panicked") && !log.contains(" ERROR "), "it reported a bug:\n{log}");
        } else {
            eprintln!("--- the server's output ---\n{log}");
        }
    }
}

fn collect(from: impl Read + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut lines = BufReader::new(from);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            into.lock().expect("no reader panics").push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}
