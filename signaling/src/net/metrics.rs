//! What the HTTP and WebSocket shell and the hub count.

use common::metrics::{Counter, Counters, Gauge, Registry};

use crate::hub::Stats;

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
        }
    }

    pub(super) fn observe(&self, stats: Stats) {
        let gauge = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&self.sessions, stats.sessions);
        gauge(&self.calls, stats.calls);
        gauge(&self.rooms, stats.rooms);
    }
}
