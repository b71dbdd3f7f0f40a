//! Short bursts above the estimate that find out whether the link carries more: when one is worth it, and what its packets'
//! arrivals say (after libwebrtc's `ProbeController` and `ProbeBitrateEstimator`, M120; the plan is simpler, because an SFU
//! knows what its next layer costs).

use super::history::Sent;

/// A probe is so much above the estimate.
const FACTOR: f64 = 2.0;
/// And no higher than what could be used, with some margin.
const WANTED_MARGIN: f64 = 1.2;
const DURATION_US: f64 = 20_000.0;
/// Few packets say nothing.
const PACKETS_MIN: u32 = 6;
/// Share of the packets that has to arrive.
const ARRIVED_MIN: f64 = 0.8;
/// What arrives this much slower than it was sent shows the link's own rate, of which this much is used.
const SATURATED: f64 = 0.9;
const UTILISATION: f64 = 0.95;
/// Arrivals this much faster than sending are a queue that was let go.
const FASTER_MAX: f64 = 2.0;
/// Success below this share of what was tried is none.
const SUCCESS: f64 = 0.7;
const PAUSE_US: (u64, u64) = (1_000_000, 5_000_000);
/// Without an answer for so long a probe has failed.
const PATIENCE_US: u64 = 1_000_000;
/// After congestion the link is left alone.
const CALM_US: u64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
struct Cluster {
    target_bps: f64,
    begun_us: u64,
    sent_bytes: u64,
    sent_packets: u32,
    arrived: Option<Arrivals>,
}

#[derive(Debug, Clone, Copy)]
struct Arrivals {
    packets: u32,
    bytes: u64,
    first_sent_us: u64,
    last_sent_us: u64,
    last_sent_bytes: u64,
    first_arrival_us: i64,
    first_arrival_bytes: u64,
    last_arrival_us: i64,
}

impl Arrivals {
    fn new(sent: &Sent, arrival_us: i64) -> Self {
        let bytes = u64::from(sent.bytes);
        Self {
            packets: 1,
            bytes,
            first_sent_us: sent.at_us,
            last_sent_us: sent.at_us,
            last_sent_bytes: bytes,
            first_arrival_us: arrival_us,
            first_arrival_bytes: bytes,
            last_arrival_us: arrival_us,
        }
    }

    fn add(&mut self, sent: &Sent, arrival_us: i64) {
        let bytes = u64::from(sent.bytes);
        self.packets += 1;
        self.bytes += bytes;
        if sent.at_us >= self.last_sent_us {
            (self.last_sent_us, self.last_sent_bytes) = (sent.at_us, bytes);
        }
        if arrival_us < self.first_arrival_us {
            (self.first_arrival_us, self.first_arrival_bytes) = (arrival_us, bytes);
        }
        self.last_arrival_us = self.last_arrival_us.max(arrival_us);
    }

    fn bps(&self) -> Option<f64> {
        let sent_us = self.last_sent_us.checked_sub(self.first_sent_us).filter(|it| *it > 0)? as f64;
        let arrival_us = (self.last_arrival_us - self.first_arrival_us).max(1) as f64;
        let sent_bps = (self.bytes - self.last_sent_bytes) as f64 * 8e6 / sent_us;
        let arrived_bps = (self.bytes - self.first_arrival_bytes) as f64 * 8e6 / arrival_us;
        if arrived_bps > FASTER_MAX * sent_bps {
            return None;
        }
        Some(if arrived_bps < SATURATED * sent_bps { UTILISATION * arrived_bps } else { sent_bps })
    }
}

/// Probes, one at a time.
#[derive(Debug)]
pub(super) struct Prober {
    id: u8,
    cluster: Option<Cluster>,
    next_us: u64,
    pause_us: u64,
}

impl Default for Prober {
    fn default() -> Self {
        Self { id: 0, cluster: None, next_us: 0, pause_us: PAUSE_US.0 }
    }
}

impl Prober {
    /// Begins a probe when one is worth it. `reduced_us`: when congestion was last seen.
    pub fn begin(
        &mut self,
        estimate_bps: f64,
        wanted_bps: f64,
        reduced_us: Option<u64>,
        now_us: u64,
    ) -> bool {
        if self.cluster.is_some_and(|it| now_us.saturating_sub(it.begun_us) > PATIENCE_US) {
            self.fail(now_us);
        }
        let calm = reduced_us.is_none_or(|at| now_us.saturating_sub(at) >= CALM_US);
        if self.cluster.is_some() || wanted_bps <= estimate_bps || !calm || now_us < self.next_us {
            return false;
        }
        self.id = self.id.checked_add(1).unwrap_or(1);
        let target_bps = (FACTOR * estimate_bps).min(WANTED_MARGIN * wanted_bps);
        let (begun_us, arrived) = (now_us, None);
        self.cluster = Some(Cluster { target_bps, begun_us, sent_bytes: 0, sent_packets: 0, arrived });
        true
    }

    /// Bytes that the running probe wants on the wire now beyond what is there; `None` when it is all sent.
    pub fn wants(&self, now_us: u64) -> Option<u64> {
        let cluster = self.cluster.filter(|it| !it.is_sent())?;
        let due = cluster.target_bps * (now_us.saturating_sub(cluster.begun_us) as f64) / 8e6;
        Some((due as u64 + 1).saturating_sub(cluster.sent_bytes))
    }

    /// The number to mark a packet with that is sent now.
    pub fn on_sent(&mut self, bytes: usize) -> u8 {
        let Some(cluster) = self.cluster.as_mut().filter(|it| !it.is_sent()) else { return 0 };
        cluster.sent_bytes += bytes as u64;
        cluster.sent_packets += 1;
        self.id
    }

    /// A marked packet arrived.
    pub fn on_arrival(&mut self, sent: &Sent, arrival_us: i64) {
        if sent.cluster != self.id {
            return;
        }
        let Some(cluster) = &mut self.cluster else { return };
        match &mut cluster.arrived {
            Some(arrived) => arrived.add(sent, arrival_us),
            None => cluster.arrived = Some(Arrivals::new(sent, arrival_us)),
        }
    }

    /// All of a feedback packet has been handed in. What the probe has shown, if it is over.
    pub fn result(&mut self, now_us: u64) -> Option<f64> {
        let cluster = self.cluster.filter(Cluster::is_sent)?;
        let arrived = cluster.arrived?;
        if f64::from(arrived.packets) < ARRIVED_MIN * f64::from(cluster.sent_packets) {
            return None;
        }
        let shown = arrived.bps();
        if shown.is_some_and(|bps| bps >= SUCCESS * cluster.target_bps) {
            (self.cluster, self.pause_us, self.next_us) = (None, PAUSE_US.0, now_us);
        } else {
            self.fail(now_us);
        }
        shown
    }

    fn fail(&mut self, now_us: u64) {
        self.cluster = None;
        self.next_us = now_us + self.pause_us;
        self.pause_us = (2 * self.pause_us).min(PAUSE_US.1);
    }
}

impl Cluster {
    fn is_sent(&self) -> bool {
        self.sent_packets >= PACKETS_MIN && self.sent_bytes as f64 * 8e6 >= self.target_bps * DURATION_US
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::History;
    use super::*;

    /// A probe over a link of so many bits per second; what it shows.
    fn probe(prober: &mut Prober, link_bps: f64, now_us: u64) -> Option<f64> {
        let mut history = History::default();
        assert!(prober.begin(1e6, 9e6, None, now_us));
        let (mut at_us, mut free_us, mut wire) = (now_us, 0.0f64, 0u16);
        while let Some(wanted) = prober.wants(at_us) {
            for _ in 0..wanted.div_ceil(300) {
                let cluster = prober.on_sent(300);
                history.sent(wire, 300, cluster, at_us);
                let (sent, _) = history.arrived(wire).expect("just sent");
                free_us = free_us.max(at_us as f64) + 300.0 * 8e6 / link_bps;
                prober.on_arrival(&sent, free_us as i64);
                wire += 1;
            }
            at_us += 1000;
        }
        prober.result(at_us)
    }

    #[test]
    fn it_shows_the_rate_that_was_tried_or_that_of_the_link() {
        let mut prober = Prober::default();
        let shown = probe(&mut prober, 10e6, 0).expect("arrived");
        assert!((1.7e6..2.3e6).contains(&shown), "{shown}");
        let shown = probe(&mut prober, 1.2e6, 30_000).expect("arrived");
        assert!((1.0e6..1.25e6).contains(&shown), "{shown}");
        assert!(!prober.begin(1e6, 9e6, None, 100_000), "after a failure there is a pause");
        assert!(!prober.begin(1e6, 9e5, None, 9_000_000), "what is wanted is there");
        assert!(
            !prober.begin(1e6, 9e6, Some(8_500_000), 9_000_000),
            "after congestion the link is left alone"
        );
        assert!(prober.begin(1e6, 9e6, Some(7_000_000), 9_000_000));
    }

    #[test]
    fn an_unanswered_probe_is_given_up() {
        let mut prober = Prober::default();
        assert!(prober.begin(1e6, 9e6, None, 0));
        assert!(!prober.begin(1e6, 9e6, None, PATIENCE_US));
        assert!(!prober.begin(1e6, 9e6, None, PATIENCE_US + 1));
        assert!(prober.begin(1e6, 9e6, None, 2 * PATIENCE_US + 1));
    }
}
