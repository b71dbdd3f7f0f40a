//! What the HTTP and WebSocket shell and the hub count.

use common::metrics::{Counter, Counters, Gauge, Registry};

use crate::hub::{Refusals, Stats};

/// Handles, fetched once at start.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub connections: Gauge,
    pub refused: Counters,
    pub requests: Counters,
    pub worker_queue_full: Counter,
    sessions: Gauge,
    calls: Gauge,
    rooms: Gauge,
    messages_refused: Counters,
    limits_reached: Counters,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            connections: registry.gauge("http_connections", "HTTP and WebSocket connections that are open"),
            refused: registry.counters("connections_refused", "Connections that were refused", "reason"),
            requests: registry.counters("http_requests", "HTTP requests by class of status", "status"),
            worker_queue_full: registry
                .counter("worker_queue_full", "Commands that a media worker's queue had no room for"),
            sessions: registry.gauge("sessions", "Sessions that are connected or may resume"),
            calls: registry.gauge("calls", "Calls that ring or run"),
            rooms: registry.gauge("rooms", "Rooms that are open"),
            messages_refused: registry.counters(
                "messages_refused",
                "Messages that were answered with an error",
                "code",
            ),
            limits_reached: registry.counters("limits_reached", "Limits that clients have reached", "limit"),
        }
    }

    /// Whether the hub has anybody.
    pub(super) fn has_sessions(&self) -> bool {
        self.sessions.get() > 0
    }

    pub(super) fn observe(&self, stats: Stats) {
        let gauge = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&self.sessions, stats.sessions);
        gauge(&self.calls, stats.calls);
        gauge(&self.rooms, stats.rooms);
    }

    /// Takes over the hub's totals. Not for every turn of the hub: it looks up each word.
    pub(super) fn observe_refusals(&self, refusals: &Refusals) {
        for (counters, totals) in
            [(&self.messages_refused, &refusals.messages), (&self.limits_reached, &refusals.limits)]
        {
            for (word, total) in totals {
                let counter = counters.with(word);
                counter.inc_by(total.saturating_sub(counter.get()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hub_refuses_is_in_the_text_once() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry);
        let stats = Stats { sessions: 2, calls: 1, rooms: 0, requests: 0, held_back: 0 };
        let mut refusals = Refusals::default();
        refusals.messages.insert("not-in-call", 3);
        refusals.limits.insert("joins", 1);
        metrics.observe(stats);
        metrics.observe_refusals(&refusals);
        refusals.messages.insert("not-in-call", 5);
        metrics.observe_refusals(&refusals);
        metrics.observe_refusals(&refusals);
        let text = registry.encode();
        for line in [
            "causeway_sessions 2",
            "causeway_messages_refused_total{code=\"not-in-call\"} 5",
            "causeway_limits_reached_total{limit=\"joins\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
