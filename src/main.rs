//! The combined binary: read the configuration, build the servers, wait, drain.
//!
//! What a setting means is `common::config`'s to say, what the servers do is theirs; here is only the order of things.

mod assets;
mod cli;
mod config;
mod load;
mod relay_server;
mod server;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use common::config::Config;
use common::net::raise_open_files;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::server::Causeway;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A setting that cannot be used, and nothing was started; 1 is left for what fails later.
const EXIT_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nobody has installed a provider before main");
    let cli = Cli::parse();
    if let Some(Command::Load(args)) = &cli.command {
        return load::run(args);
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway: {error:#}");
            ExitCode::from(EXIT_SETTINGS)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    if let Some(answer) = cli::answer(&cli) {
        print!("{}", answer?);
        return Ok(());
    }
    if let Some(Command::Turn { options }) = &cli.command {
        return relay_server::run(options);
    }
    let config = config::load(&cli)?;
    log_to_stderr(&config)?;
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}

/// The filter is `log.level`: a level, or tracing's own `target=level` list.
fn log_to_stderr(config: &Config) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&config.log.level).map_err(|error| anyhow::anyhow!("log.level: {error}"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if config.log.json {
        log.json().init();
    } else {
        log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    }
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let causeway = Causeway::start(&config).await?;
    greet(&config, &causeway);
    while signals.wants_reload().await {
        causeway.reload();
    }
    drain(&causeway, config.signaling.drain_timeout, &mut signals).await;
    causeway.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// Waits for calls and rooms to end by themselves, not for ever, and no longer when told to stop again.
async fn drain(causeway: &Causeway, longest: Duration, signals: &mut Signals) {
    let told_again = async { while signals.wants_reload().await {} };
    tokio::select! {
        () = causeway.drain() => {}
        () = tokio::time::sleep(longest) => {}
        () = told_again => {}
    }
}

/// Where to go, for people; in production for whoever reads the log.
fn greet(config: &Config, causeway: &Causeway) {
    let url = causeway.url(config);
    if config.dev {
        println!(
            "Causeway, development mode: open {url} in two tabs, sign in as two names, and call yourself."
        );
        println!(
            "To deploy it: causeway --config causeway.toml, with TLS, a secret and this host's public address."
        );
    } else {
        tracing::info!(%url, "serving");
    }
}

/// A write beyond the limit of a file's size (RLIMIT_FSIZE) is to fail like one to a full disk; unheard, its signal kills.
const SIGXFSZ: i32 = 25;

/// What the operator may tell a running process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        drop(signal(SignalKind::from_raw(SIGXFSZ))?); // tokio goes on hearing it, and nobody listens
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next wish: `true` to reload, `false` to stop.
    async fn wants_reload(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => false,
            _ = self.hangup.recv() => true,
        }
    }
}
