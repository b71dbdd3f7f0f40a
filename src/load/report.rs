//! What a load has seen, for people and for programs; the fields of the JSON are described in docs/sizing.md.

use std::fmt;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::listener::Totals;
use super::member::Outcome;
use super::process::Usage;
use super::{Shared, Window};

/// How many failures are told one by one.
const FAILURES_MAX: usize = 8;

/// The report.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Members who are in, with their media.
    pub joins_ok: u64,
    /// Members who are not.
    pub joins_failed: u64,
    join_ms: Spread,
    packets_sent: u64,
    packets_received: u64,
    packets_recovered: u64,
    packets_lost: u64,
    packets_asked: u64,
    keyframes_asked: u64,
    window_seconds: f64,
    forwarded_per_second: f64,
    delay_ms: Spread,
    /// With `--server-pid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerCost>,
    /// The first of those who could not join, and why.
    pub failures: Vec<String>,
}

/// The median, the 99th percentile and the worst; nothing when there is none.
#[derive(Debug, Serialize)]
struct Spread {
    p50: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

impl Spread {
    /// Of nanoseconds, in milliseconds.
    fn of(mut ns: Vec<u64>) -> Self {
        ns.sort_unstable();
        let at = |percent: usize| {
            ns.get((ns.len().saturating_sub(1) * percent).div_ceil(100)).map(|ns| *ns as f64 / 1e6)
        };
        Self { p50: at(50), p99: at(99), max: at(100) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.p50, self.p99, self.max) {
            (Some(p50), Some(p99), Some(max)) => {
                write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")
            }
            _ => f.write_str("none"),
        }
    }
}

/// What the server's process has spent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerCost {
    cpu_ns_per_packet: Option<f64>,
    cpu_share: f64,
    rss_bytes: u64,
    rss_bytes_per_peer: Option<u64>,
}

impl Report {
    /// Adds up; `before` is the server before anybody joined.
    pub(super) fn new(
        shared: &Shared,
        outcomes: Vec<Outcome>,
        before: Option<Usage>,
        window: Window,
    ) -> Self {
        let (mut joins, mut delays, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        let mut all = Totals::default();
        for outcome in outcomes {
            match outcome {
                Outcome::Joined(took, seen) => {
                    joins.push(took.as_nanos() as u64);
                    all.add(&seen.totals);
                    delays.extend(seen.delays_ns);
                }
                Outcome::Failed(failure) => failures.push(failure),
            }
        }
        let (joins_ok, joins_failed) = (joins.len() as u64, failures.len() as u64);
        failures.truncate(FAILURES_MAX);
        let seconds = window.length.as_secs_f64();
        let server = before.zip(window.server).map(|(idle, (start, end))| {
            let cpu_ns = end.cpu_ns.saturating_sub(start.cpu_ns) as f64;
            ServerCost {
                cpu_ns_per_packet: (window.forwarded > 0).then(|| cpu_ns / window.forwarded as f64),
                cpu_share: cpu_ns / 1e9 / seconds,
                rss_bytes: end.rss_bytes,
                rss_bytes_per_peer: end.rss_bytes.saturating_sub(idle.rss_bytes).checked_div(joins_ok),
            }
        });
        Self {
            joins_ok,
            joins_failed,
            join_ms: Spread::of(joins),
            packets_sent: shared.sent.load(Ordering::Relaxed),
            packets_received: all.received,
            packets_recovered: all.recovered,
            packets_lost: all.lost,
            packets_asked: all.asked,
            keyframes_asked: all.keyframes_asked,
            window_seconds: seconds,
            forwarded_per_second: window.forwarded as f64 / seconds,
            delay_ms: Spread::of(delays),
            server,
            failures,
        }
    }

    /// On several lines.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and text are JSON")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "joins      {} ok, {} failed; {}", self.joins_ok, self.joins_failed, self.join_ms)?;
        writeln!(
            f,
            "packets    {} sent, {} received ({} of them again), {} lost; {:.0} forwarded/s in {:.1} s",
            self.packets_sent,
            self.packets_received,
            self.packets_recovered,
            self.packets_lost,
            self.forwarded_per_second,
            self.window_seconds
        )?;
        writeln!(f, "asked      for {} packets, {} keyframes", self.packets_asked, self.keyframes_asked)?;
        write!(f, "delay      {}", self.delay_ms)?;
        if let Some(server) = &self.server {
            let (packet, peer) =
                (server.cpu_ns_per_packet.unwrap_or_default(), server.rss_bytes_per_peer.unwrap_or_default());
            write!(
                f,
                "\nserver     {packet:.0} ns of CPU per forwarded packet, {:.1} % of a core; ",
                100.0 * server.cpu_share
            )?;
            write!(f, "{} kB resident, {} kB per peer", server.rss_bytes / 1000, peer / 1000)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let spread = Spread::of((1..=100).map(|ms| ms * 1_000_000).collect());
        assert_eq!((spread.p50, spread.p99, spread.max), (Some(51.0), Some(100.0), Some(100.0)));
        assert_eq!(Spread::of(Vec::new()).max, None);
    }
}
