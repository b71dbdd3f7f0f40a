//! A Causeway of one test's own: started in dev mode on free ports in a temporary folder, ended by its own id.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use tokio_rustls::TlsConnector;

/// Far above anything that is waited for; only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Signs tokens where a test wants to do so itself.
pub const SECRET: &str = "a secret of 32 bytes that tests know";

/// Everybody is on loopback here, which the relay refuses unless it is allowed.
const LOOPBACK_PEERS: &str = "turn.allowed_peers=127.0.0.0/8";

pub struct Server {
    child: Child,
    pub http: SocketAddr,
    /// Where it serves TLS: what trusts its certificate.
    pub tls: Option<TlsConnector>,
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

    /// Not in dev mode: limits per address hold for loopback too. Tokens are signed with [`SECRET`].
    pub fn start_deployed(settings: &[&str]) -> Self {
        let folder = Folder::new();
        let config = folder.path().join("causeway.toml");
        let (media, turn) = (free_port(), free_port());
        let text = format!(
            "http = {{ listen = \"127.0.0.1:0\", tls = \"off\" }}\nauth.secret = \"{SECRET}\"\n\
             media = {{ listen_ip = \"127.0.0.1\", port = {media}, workers = 1 }}\n\
             turn.listen = \"127.0.0.1:{turn}\"\nturn.allowed_peers = [\"127.0.0.0/8\"]\nstore.url = \"sqlite://calls.db\"\n"
        );
        std::fs::write(&config, text).expect("the temporary folder is writable");
        let mut arguments = vec!["--config".to_owned(), config.display().to_string()];
        arguments.extend(settings.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let command = causeway(&folder, &arguments);
        Self::run(folder, command, media, turn)
    }

    /// In dev mode with [`SECRET`], below limits that a shell's `ulimit` sets, such as `-n 256`.
    pub fn start_limited(ulimit: &str, settings: &[&str]) -> Self {
        Self::start_below(&["sh", "-c", &format!("ulimit {ulimit} && exec \"$0\" \"$@\"")], settings)
    }

    /// In dev mode with [`SECRET`], executed by another command, which gets the binary and its arguments at its end.
    pub fn start_below(outer: &[&str], settings: &[&str]) -> Self {
        let (folder, media, turn) = (Folder::new(), free_port(), free_port());
        let mut command = Command::new(outer[0]);
        command
            .args(&outer[1..])
            .args([env!("CARGO_BIN_EXE_causeway"), "--dev"])
            .args(["--set", "http.listen=127.0.0.1:0", "--set", "media.workers=1"])
            .args(["--set", &format!("auth.secret={SECRET}"), "--set", LOOPBACK_PEERS])
            .args([
                "--set",
                &format!("media.port={media}"),
                "--set",
                &format!("turn.listen=127.0.0.1:{turn}"),
            ])
            .args(settings.iter().flat_map(|set| ["--set", set]))
            .current_dir(folder.path())
            .stdin(Stdio::null());
        Self::run(folder, command, media, turn)
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
            LOOPBACK_PEERS.to_owned(),
        ];
        let sets = own.iter().map(String::as_str).chain(settings.iter().copied());
        let arguments: Vec<&str> = ["--dev"].into_iter().chain(sets.flat_map(|set| ["--set", set])).collect();
        let command = causeway(&folder, &arguments);
        Self::run(folder, command, media_port, turn_port)
    }

    fn run(folder: Folder, mut command: Command, media_port: u16, turn_port: u16) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().expect("piped"), Arc::clone(&log));
        collect(child.stderr.take().expect("piped"), Arc::clone(&log));
        let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut server = Self { child, http: unknown, tls: None, media_port, turn_port, folder, log };
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

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Memory that it occupies (VmRSS), KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs, on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    /// Time on processors so far, in the kernel's ticks: a hundred a second.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let (_, rest) = stat.rsplit_once(')').expect("the name is in parentheses");
        rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
    }

    /// Sets the soft limit of something that it may use while it runs; `None` takes it away.
    pub fn limit(&self, resource: Resource, soft: Option<u64>) {
        let maximum = getrlimit(resource).maximum; // it has inherited ours
        let limit = Rlimit { current: soft.or(maximum), maximum };
        prlimit(Some(self.pid()), resource, limit).expect("it is our child");
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
