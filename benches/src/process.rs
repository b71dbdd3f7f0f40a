//! What a process has used so far, as the kernel counts it (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::Context;

/// CPU time of all its threads, in the resolution of the scheduler.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue }; // it ended meanwhile
        nanoseconds += on_cpu(&text)?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// CPU time of the calling thread.
pub fn own_thread_cpu_time() -> anyhow::Result<Duration> {
    Ok(Duration::from_nanos(on_cpu(&fs::read_to_string("/proc/thread-self/schedstat")?)?))
}

fn on_cpu(schedstat: &str) -> anyhow::Result<u64> {
    let first = schedstat.split_whitespace().next().context("schedstat has three numbers")?;
    Ok(first.parse()?)
}

/// Resident memory.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kilobytes = line.split_whitespace().nth(1).context("VmRSS has a number")?;
    Ok(kilobytes.parse::<u64>()? * 1024)
}
