//! What the media workers count, for `/metrics`: the difference of the core's plain counters since the last look.

use common::metrics::{Counter, Gauge, Registry};

use crate::sfu::Counters;

/// Where one metric's value stands.
type Read = fn(&Totals) -> u64;

/// One worker's share. All workers count into the same metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    counters: Vec<(Counter, Read)>,
    transports: Gauge,
    told: Totals,
}

/// Everything since the worker started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub core: Counters,
    pub transports: usize,
    /// Sends that the UDP socket had no room for.
    pub udp_dropped: u64,
    /// Datagrams that came faster than they were taken from the UDP socket.
    pub kernel_dropped: u64,
    /// What another worker of the same room did not take in time.
    pub ring_dropped: u64,
    /// Frames that a slow TCP connection's queue had no room for.
    pub tcp_dropped: u64,
    /// Statistics that a stuck hub was not told.
    pub events_dropped: u64,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let drops = registry.counters("media_drops", "Datagrams and messages that media dropped", "reason");
        let counters: Vec<(Counter, Read)> = vec![
            (registry.counter("media_packets_received", "SRTP packets received and opened"), |totals| {
                totals.core.received
            }),
            (
                registry.counter("media_packets_forwarded", "RTP packets forwarded, once per consumer"),
                |totals| totals.core.forwarded,
            ),
            (
                registry.counter("media_packets_retransmitted", "RTP packets sent again on request"),
                |totals| totals.core.retransmitted,
            ),
            (
                registry.counter(
                    "media_voices_left_out",
                    "Audio packets of publishers while others had the floor",
                ),
                |totals| totals.core.voices_left_out,
            ),
            (drops.with("unknown_address"), |totals| totals.core.unknown_address),
            (drops.with("unknown_protocol"), |totals| totals.core.unknown_protocol),
            (drops.with("bad_stun"), |totals| totals.core.bad_stun),
            (drops.with("bad_srtp"), |totals| totals.core.bad_srtp),
            (drops.with("unknown_source"), |totals| totals.core.unknown_source),
            (drops.with("malformed_rtp"), |totals| totals.core.malformed_rtp),
            (drops.with("feedback_flood"), |totals| totals.core.feedback_dropped),
            (drops.with("retransmission_limit"), |totals| totals.core.repairs_refused),
            (drops.with("data"), |totals| totals.core.data_dropped),
            (drops.with("video_queue_full"), |totals| totals.core.video_dropped),
            (drops.with("udp_full"), |totals| totals.udp_dropped),
            (drops.with("receive_buffer_full"), |totals| totals.kernel_dropped),
            (drops.with("ring_full"), |totals| totals.ring_dropped),
            (drops.with("tcp_full"), |totals| totals.tcp_dropped),
            (drops.with("hub_full"), |totals| totals.events_dropped),
        ];
        let transports = registry.gauge("media_transports", "WebRTC transports that are open");
        Self { counters, transports, told: Totals::default() }
    }

    /// Brings the metrics up to date.
    pub(super) fn observe(&mut self, totals: Totals) {
        for (counter, value) in &self.counters {
            let more = value(&totals) - value(&self.told);
            if more > 0 {
                counter.inc_by(more);
            }
        }
        if totals.transports != self.told.transports {
            self.transports.inc_by(totals.transports as i64 - self.told.transports as i64);
        }
        self.told = totals;
    }
}

/// A worker that starts again has lost its transports.
impl Drop for Metrics {
    fn drop(&mut self) {
        self.transports.dec_by(self.told.transports as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up_and_take_their_transports_with_them() {
        let registry = Registry::new();
        let (mut one, mut other) = (Metrics::new(&registry), Metrics::new(&registry));
        let core = Counters { received: 5, bad_stun: 2, ..Counters::default() };
        one.observe(Totals { core, transports: 3, ..Totals::default() });
        one.observe(Totals { core: Counters { received: 6, ..core }, transports: 2, ..Totals::default() });
        other.observe(Totals { core, transports: 1, udp_dropped: 4, ..Totals::default() });
        let check = |lines: &[&str]| {
            let text = registry.encode();
            lines.iter().for_each(|line| assert!(text.contains(line), "{line} is not in\n{text}"));
        };
        check(&[
            "causeway_media_packets_received_total 11\n",
            "causeway_media_drops_total{reason=\"bad_stun\"} 4\n",
            "causeway_media_drops_total{reason=\"udp_full\"} 4\n",
            "causeway_media_transports 3\n",
        ]);
        drop(one);
        check(&["causeway_media_transports 1\n", "causeway_media_packets_received_total 11\n"]);
    }
}
