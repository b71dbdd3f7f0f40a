//! What an allocation costs: CPU for 401, Allocate and ChannelBind, memory while it idles.

use std::net::SocketAddr;

use common::net::raise_open_files;
use serde::Serialize;

use crate::process::{cpu_time, resident_bytes};
use crate::session::Session;

/// Allocations before the first look, so that what is made once is not counted.
const BEFORE: usize = 100;
/// A public address: nothing is sent to it.
const PEER: ([u8; 4], u16) = ([8, 8, 8, 8], 5000);

#[derive(Serialize)]
pub struct Report {
    allocations: usize,
    cpu_us_per_allocation: f64,
    resident_bytes_per_allocation: u64,
}

pub fn run(server: SocketAddr, pid: u32, count: usize) -> anyhow::Result<Report> {
    raise_open_files();
    let mut sessions = Vec::new(); // kept, or a port comes back to a server that still knows it
    let mut make = |index| {
        let mut session = Session::allocate(server, index)?;
        session.bind(PEER.into())?;
        sessions.push(session);
        anyhow::Ok(())
    };
    (0..BEFORE).try_for_each(&mut make)?;
    let (cpu, memory) = (cpu_time(pid)?, resident_bytes(pid)?);
    (BEFORE..BEFORE + count).try_for_each(&mut make)?;
    let cpu = cpu_time(pid)? - cpu;
    let memory = resident_bytes(pid)?.saturating_sub(memory);
    Ok(Report {
        allocations: count,
        cpu_us_per_allocation: cpu.as_secs_f64() * 1e6 / count as f64,
        resident_bytes_per_allocation: memory / count as u64,
    })
}
