//! `causeway load`: many people on one running server, and what became of their packets.
//!
//! Members join over the WebSocket protocol (`signal`), each transport is a socket of its own (`leg`), publishers send
//! synthetic VP8 and opus (`source`), subscribers count (`sink`) and give feedback as browsers do (`listener`), and `report` says
//! what was seen. No codec is involved: a
//! payload ends with the moment of its sending, which the same process reads again.

mod leg;
mod listener;
mod member;
mod process;
mod report;
mod signal;
mod sink;
mod source;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use tokio::sync::{Barrier, watch};

use self::member::{Member, Outcome};
use self::process::Usage;
use self::report::Report;
use self::signal::Server;

/// Whom to send, where, and for how long.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// The server's HTTP listener: ws://HOST:PORT or http://HOST:PORT.
    #[arg(long)]
    url: String,
    /// The HS256 secret of the server; without it, tokens are asked of a server in development mode.
    #[arg(long)]
    secret: Option<String>,
    /// Rooms.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rooms: u32,
    /// Publishers in each room.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    publishers: u32,
    /// Subscribers in each room, each of all its publishers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    subscribers: u32,
    /// Each publisher sends video of this bit rate, such as 1.2Mbps or 300kbps.
    #[arg(long, value_parser = bitrate)]
    video: Option<u64>,
    /// Each publisher sends video in three encodings of 150, 500 and 1500 kb/s.
    #[arg(long, conflicts_with = "video")]
    simulcast: bool,
    /// Each publisher sends audio.
    #[arg(long)]
    audio: bool,
    /// For how long is measured, once everybody has joined.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Threads of the load itself.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// The server's process, for its CPU time and memory.
    #[arg(long)]
    server_pid: Option<u32>,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

/// As cameras do it in browsers, from the smallest.
const SIMULCAST_BPS: [u64; 3] = [150_000, 500_000, 1_500_000];

impl LoadArgs {
    /// Bits per second of each encoding of a publisher's video.
    fn encodings(&self) -> Vec<u64> {
        if self.simulcast { SIMULCAST_BPS.to_vec() } else { self.video.into_iter().collect() }
    }
}

/// Bits per second.
fn bitrate(text: &str) -> Result<u64, String> {
    let units = [("Mbps", 1e6), ("kbps", 1e3), ("bps", 1.0)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
        .ok_or("expected a bit rate such as 1.2Mbps or 300kbps")?;
    let bps = number.parse::<f64>().map_err(|error| error.to_string())? * unit;
    if (8e3..=1e9).contains(&bps) { Ok(bps as u64) } else { Err("expected 8kbps to 1000Mbps".into()) }
}

/// A step of a join that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What all threads see.
pub struct Shared {
    server: Server,
    args: LoadArgs,
    /// The zero of the timestamps inside payloads.
    epoch: Instant,
    /// Whether the window is open in which delays are taken.
    measuring: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    joined: AtomicU64,
}

impl Shared {
    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64 // 584 years
    }
}

/// Runs the load and prints the report: 0 when everybody joined, 1 when somebody could not, 2 for settings.
pub fn run(args: &LoadArgs) -> ExitCode {
    match measure(args) {
        Ok(report) => {
            let text = if args.json { report.json() } else { report.to_string() };
            println!("{text}");
            for failure in &report.failures {
                eprintln!("causeway load: {failure}");
            }
            ExitCode::from(u8::from(report.joins_failed > 0))
        }
        Err(error) => {
            eprintln!("causeway load: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn measure(args: &LoadArgs) -> anyhow::Result<Report> {
    if args.encodings().is_empty() && !args.audio {
        bail!("--video, --simulcast, --audio: nothing to send; give at least one of them");
    }
    let server = Server::new(&args.url, args.secret.as_deref()).context("--url")?;
    let before = args.server_pid.map(Usage::of).transpose().context("--server-pid")?;
    common::net::raise_open_files();
    let shared = Arc::new(Shared {
        server,
        args: args.clone(),
        epoch: Instant::now(),
        measuring: AtomicBool::new(false),
        sent: AtomicU64::new(0),
        received: AtomicU64::new(0),
        joined: AtomicU64::new(0),
    });
    let (stop, stopped) = watch::channel(false);
    let barrier = Arc::new(Barrier::new(args.threads as usize + 1));
    let threads: Vec<_> = (0..args.threads)
        .map(|thread| {
            let (shared, barrier, stopped) = (shared.clone(), barrier.clone(), stopped.clone());
            std::thread::spawn(move || drive(thread, &shared, &barrier, &stopped))
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let window = runtime.block_on(window(&shared, &barrier, &stop));
    let mut outcomes = Vec::new();
    for thread in threads {
        outcomes.extend(thread.join().expect("a thread of the load does not panic")?);
    }
    Ok(Report::new(&shared, outcomes, before, window))
}

/// What the window has seen: its length, the packets received in it, the server before and after.
pub struct Window {
    length: Duration,
    forwarded: u64,
    server: Option<(Usage, Usage)>,
}

/// Waits for the joins, keeps the window open for as long as asked or until Ctrl-C, and tells everybody to leave.
async fn window(shared: &Shared, barrier: &Barrier, stop: &watch::Sender<bool>) -> Window {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let joins = async {
        barrier.wait().await; // publishers
        barrier.wait().await; // subscribers
    };
    let ended_early = tokio::select! { () = joins => false, _ = &mut interrupted => true };
    let usage = || shared.args.server_pid.and_then(|pid| Usage::of(pid).ok());
    let (before, received, began) = (usage(), shared.received.load(Ordering::Relaxed), Instant::now());
    shared.measuring.store(true, Ordering::Relaxed);
    if !ended_early {
        tokio::select! { () = progress(shared) => {}, _ = &mut interrupted => {} }
    }
    shared.measuring.store(false, Ordering::Relaxed);
    let window = Window {
        length: began.elapsed(),
        forwarded: shared.received.load(Ordering::Relaxed) - received,
        server: before.zip(usage()),
    };
    stop.send_replace(true);
    window
}

/// Says once a second, or every ten where nobody watches, how far it has come.
async fn progress(shared: &Shared) {
    let terminal = std::io::stderr().is_terminal();
    for second in 1..=shared.args.seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (joined, received) =
            (shared.joined.load(Ordering::Relaxed), shared.received.load(Ordering::Relaxed));
        let line = format!("{second}/{} s, {joined} joined, {received} packets", shared.args.seconds);
        if terminal {
            let _ = write!(std::io::stderr(), "\r{line}");
        } else if second % 10 == 0 {
            eprintln!("{line}");
        }
    }
    if terminal {
        eprintln!();
    }
}

/// One thread: its share of the publishers, then of the subscribers, until told to stop.
fn drive(
    thread: u32,
    shared: &Arc<Shared>,
    barrier: &Barrier,
    stopped: &watch::Receiver<bool>,
) -> anyhow::Result<Vec<Outcome>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let (mut members, mut outcomes) = (Vec::new(), Vec::new());
        for publishing in [true, false] {
            for member in Member::all(&shared.args, publishing) {
                if member.number % shared.args.threads == thread && !*stopped.borrow() {
                    match member.join(shared, stopped).await {
                        Ok(running) => members.push(running),
                        Err(error) => outcomes.push(Outcome::failed(&member, &error)),
                    }
                }
            }
            let mut stopped = stopped.clone();
            tokio::select! { _ = barrier.wait() => {}, _ = stopped.wait_for(|stopped| *stopped) => {} }
        }
        for member in members {
            outcomes.push(member.end().await);
        }
        Ok(outcomes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_rates_have_units() {
        assert_eq!(bitrate("1.2Mbps"), Ok(1_200_000));
        assert_eq!(bitrate("300kbps"), Ok(300_000));
        for text in ["", "1.2", "Mbps", "0Mbps", "-1Mbps", "NaNbps", "2000Mbps"] {
            assert!(bitrate(text).is_err(), "{text}");
        }
    }
}
