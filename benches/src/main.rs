//! `turn-load`: load for a TURN server on loopback, and the floor under it: a forwarder that knows no protocol.
//!
//! `benches/turn-vs-coturn` starts the servers and calls this, `benches/sfu-vs-janus` only `fan`; each command prints one line of
//! JSON. `session` makes allocations, `traffic` drives packets through them, `control` and `flood` measure requests, with a `payer`
//! beside the flood, `floor` is the forwarder,
//! `process` reads what the server spent. One thread, to be pinned beside the server's core.

#[path = "../../turn/tests/it/client.rs"]
#[allow(dead_code)] // the tests use more of it
mod client;
mod control;
mod fan;
mod flood;
mod floor;
mod payer;
mod poll;
mod process;
mod session;
mod traffic;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Load for a TURN server that knows the REST secret "north" in the realm "test".
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Packets through allocations: rate, loss, delay, and what they cost the server.
    Traffic(traffic::Options),
    /// 401, Allocate and ChannelBind, one client after the other: CPU and memory per allocation.
    Control {
        /// Where the server listens.
        #[arg(long)]
        server: SocketAddr,
        /// Its process.
        #[arg(long)]
        pid: u32,
        /// Allocations to make, and leave idle.
        #[arg(long, default_value_t = 5000)]
        count: usize,
    },
    /// Allocate requests without credentials from many addresses: what grows, how many are answered, and what a client with an
    /// allocation notices of it.
    Flood {
        /// Where the server listens.
        #[arg(long)]
        server: SocketAddr,
        /// Its process.
        #[arg(long)]
        pid: u32,
        /// For how long.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Requests per second; as many as go when it is absent.
        #[arg(long)]
        pace: Option<f64>,
    },
    /// Sealing and sending alone: what an SFU cannot leave out.
    Fan(fan::Options),
    /// The forwarder: what relaying costs when nothing is looked at.
    Floor {
        /// How datagrams pass the kernel's border.
        #[arg(long, value_enum)]
        way: floor::Way,
        /// Where clients send to.
        #[arg(long)]
        listen: SocketAddr,
    },
}

fn main() -> anyhow::Result<()> {
    let line = match Cli::parse().command {
        Command::Traffic(options) => serde_json::to_string(&traffic::run(&options)?)?,
        Command::Control { server, pid, count } => serde_json::to_string(&control::run(server, pid, count)?)?,
        Command::Flood { server, pid, seconds, pace } => {
            serde_json::to_string(&flood::run(server, pid, Duration::from_secs_f64(seconds), pace)?)?
        }
        Command::Fan(options) => serde_json::to_string(&fan::run(&options)?)?,
        Command::Floor { way, listen } => return floor::run(way, listen),
    };
    println!("{line}");
    Ok(())
}
