//! `causeway turn`: the relay alone, in coturn's place, with coturn's options, files and signals.
//!
//! `turn::conf` says what the options mean; here they are read, and the process is led through its life: `log` is where lines
//! go, `life` has the pid file, the daemon and the user that it becomes, `metrics` serves `/metrics`.

mod life;
mod log;
mod metrics;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use common::handover::DatagramSink;
use common::metrics::Registry;
use common::net::{Gate, open_files, raise_open_files};
use tokio::signal::unix::{SignalKind, signal};
use turn::conf::{self, Conf, Environment, File};
use turn::net::TurnHandle;

/// Where coturn looks when it is not told.
const USUAL_FILES: [&str; 4] = [
    "turnserver.conf",
    "/etc/turnserver.conf",
    "/etc/coturn/turnserver.conf",
    "/usr/local/etc/turnserver.conf",
];
/// How often a draining relay looks whether it may go.
const DRAIN_POLL: Duration = Duration::from_millis(200);
/// TCP connections from one address; a school or a company is behind one.
const CONNECTIONS_PER_ADDRESS: usize = 256;

/// The help text: coturn's options, as the table of keys has them.
pub fn help() -> String {
    let mut text = String::from(
        "Usage: causeway turn [-c FILE | -n] [coturn's own options]\n\n\
         The options are coturn's, as are the keys of its turnserver.conf; `causeway check-config -c FILE` says what each becomes.\n\n",
    );
    for (option, fate) in conf::options() {
        text.push_str(&format!("  {option:<44} {fate}\n"));
    }
    text
}

/// Reads what coturn would read.
pub fn read(arguments: &[String]) -> anyhow::Result<(Option<PathBuf>, Conf)> {
    let (file, said) = conf::arguments(arguments).map_err(anyhow::Error::msg)?;
    let path = match file {
        File::Nowhere => None,
        File::Named(path) => Some(PathBuf::from(path)),
        File::Usual => USUAL_FILES.iter().map(PathBuf::from).find(|path| path.is_file()),
    };
    let bytes = path
        .as_deref()
        .map(|path| std::fs::read(path).with_context(|| format!("-c {}: cannot be read", path.display())));
    let text =
        bytes.transpose()?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let addresses = interface_addresses()?;
    let system = rustix::system::uname();
    let environment = Environment {
        addresses: &addresses,
        host_name: &system.nodename().to_string_lossy(),
        readable: &conf::readable,
    };
    Ok((path, Conf::read(conf::lines(&text).chain(said), &environment)))
}

/// Reads a file alone.
pub fn read_file(path: &Path) -> anyhow::Result<Conf> {
    read(&["-c".into(), path.display().to_string()]).map(|(_, conf)| conf)
}

/// What every key became, for `check-config`; an error when something is refused.
pub fn check(path: &Path) -> anyhow::Result<String> {
    let conf = read_file(path)?;
    let mut text: String = conf.notes.iter().map(|note| format!("{note}\n")).collect();
    text.push('\n');
    text.extend(conf.describe().into_iter().map(|(name, value)| format!("{name}: {value}\n")));
    let refused = conf.refusals().count();
    if refused > 0 {
        print!("{text}");
        bail!("{}: {refused} refused, nothing would be started", path.display());
    }
    Ok(text)
}

fn interface_addresses() -> anyhow::Result<Vec<IpAddr>> {
    let mut seen = HashSet::new();
    let interfaces = nix::ifaddrs::getifaddrs().context("the addresses of this machine")?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(addresses.filter(|ip| seen.insert(*ip)).collect())
}

/// Runs until it is told to stop, or until a drain has come to its end.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    if arguments.iter().any(|argument| ["-h", "--help"].contains(&argument.as_str())) {
        print!("{}", help());
        return Ok(());
    }
    let (path, conf) = read(arguments)?;
    let source = path.as_deref().map_or("command line".into(), |path| path.display().to_string());
    if let Some(refusal) = conf.refusals().next() {
        bail!("{source}: {refusal}");
    }
    if conf.process.daemon && !life::is_daemon() {
        return life::become_daemon();
    }
    let log = log::start(&conf.process)?;
    for warning in conf.warnings() {
        tracing::warn!("{source}: {warning}");
    }
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve(arguments, &conf, &log))
}

async fn serve(arguments: &[String], conf: &Conf, log: &log::Log) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let registry = Registry::new();
    let gate = Gate::new(open_files() / 2, CONNECTIONS_PER_ADDRESS, false);
    let relay = turn::net::start(&conf.settings, gate, Vec::new(), Arc::new(NoMedia), &registry)?;
    if let Some(address) = conf.process.metrics {
        metrics::serve(address, registry).await?;
    }
    let pid_file = conf.process.pid_file.as_deref().map(life::PidFile::write).transpose()?;
    life::become_user(&conf.process)?;
    life::tell_ready();
    let mut draining = false;
    loop {
        match signals.next(draining.then_some(DRAIN_POLL)).await {
            Told::Stop => break,
            Told::ReopenLog => log.reopen(),
            Told::Reload => reload(arguments, &relay),
            Told::Drain => {
                draining = true;
                relay.drain();
                tracing::info!(allocations = relay.allocations(), "draining: no new allocations");
            }
            Told::Nothing => {}
        }
        if draining && relay.allocations() <= conf.process.drain_min_allocations {
            break;
        }
    }
    tracing::info!("stopped");
    relay.shutdown();
    drop(pid_file);
    Ok(())
}

/// Secrets, users and certificates anew; everything else needs a restart.
fn reload(arguments: &[String], relay: &TurnHandle) {
    relay.reload();
    match read(arguments) {
        Ok((_, conf)) => {
            if let Some(refusal) = conf.refusals().next() {
                return tracing::error!("not read again: {refusal}");
            }
            relay.set_credentials(conf.settings.relay.credentials);
            tracing::info!("secrets, users and certificates are read again");
        }
        Err(error) => tracing::error!("not read again: {error:#}"),
    }
}

/// What the operator wants.
enum Told {
    Stop,
    ReopenLog,
    Reload,
    Drain,
    Nothing,
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    user1: tokio::signal::unix::Signal,
    user2: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// coturn's meanings. With `longest`, [`Told::Nothing`] when nobody has said anything for so long.
    async fn next(&mut self, longest: Option<Duration>) -> Told {
        let waited = async {
            match longest {
                Some(longest) => tokio::time::sleep(longest).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::ReopenLog,
            _ = self.user1.recv() => Told::Drain,
            _ = self.user2.recv() => Told::Reload,
            () = waited => Told::Nothing,
        }
    }
}

/// There is no SFU in this process.
struct NoMedia;

impl DatagramSink for NoMedia {
    fn deliver(&self, _: SocketAddr, _: SocketAddr, _: &[u8]) -> bool {
        false
    }
}
