//! Counters and gauges, and their text for `/metrics` (Prometheus / OpenMetrics).
//!
//! Each crate registers its own once, at start, and keeps the handles. Counting is one relaxed atomic addition and takes
//! no lock; a labelled counter is looked up once ([`Counters::with`]) and its handle kept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::metrics::{counter, family, gauge, info};
use prometheus_client::registry;

/// Only ever goes up. Clones count together.
pub type Counter = counter::Counter<u64, AtomicU64>;

/// Goes up and down. Clones count together.
pub type Gauge = gauge::Gauge<i64, AtomicI64>;

type Labels = Vec<(&'static str, &'static str)>;

/// A counter per value of one label, for example per reason of a drop.
#[derive(Debug, Clone)]
pub struct Counters {
    label: &'static str,
    family: family::Family<Labels, Counter>,
}

impl Counters {
    /// The counter of one label value; keep it where it is counted often.
    pub fn with(&self, value: &'static str) -> Counter {
        self.family.get_or_create_owned(&vec![(self.label, value)])
    }

    /// The counter of one label value and one of another label, likewise.
    pub fn with_also(&self, value: &'static str, also: (&'static str, &'static str)) -> Counter {
        self.family.get_or_create_owned(&vec![(self.label, value), also])
    }

    /// Adds one. For places that are not hot: it looks the value up.
    pub fn inc(&self, value: &'static str) {
        self.add(value, 1);
    }

    /// Adds `count`, likewise.
    pub fn add(&self, value: &'static str, count: u64) {
        self.family.get_or_create(&vec![(self.label, value)]).inc_by(count);
    }
}

/// A gauge per value of one label, for example per worker state.
#[derive(Debug, Clone)]
pub struct Gauges {
    label: &'static str,
    family: family::Family<Labels, Gauge>,
}

impl Gauges {
    /// The gauge of one label value.
    pub fn with(&self, value: &'static str) -> Gauge {
        self.family.get_or_create_owned(&vec![(self.label, value)])
    }
}

/// All metrics of the process. Clones are the same registry.
///
/// Asking again for a name gives the same metric, so that every worker may ask for it.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    registry: registry::Registry,
    known: BTreeMap<&'static str, Metric>,
}

#[derive(Clone)]
enum Metric {
    Counter(Counter),
    Gauge(Gauge),
    Counters(Counters),
    Gauges(Gauges),
    Info,
}

/// Every metric's name begins with it.
const PREFIX: &str = "causeway";

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// A counter: `name` without prefix and without `_total`, `help` without a full stop.
    pub fn counter(&self, name: &'static str, help: &str) -> Counter {
        match self.metric(name, help, || Metric::Counter(Counter::default())) {
            Metric::Counter(counter) => counter,
            _ => panic!("{name} is registered as another kind of metric"),
        }
    }

    /// A gauge.
    pub fn gauge(&self, name: &'static str, help: &str) -> Gauge {
        match self.metric(name, help, || Metric::Gauge(Gauge::default())) {
            Metric::Gauge(gauge) => gauge,
            _ => panic!("{name} is registered as another kind of metric"),
        }
    }

    /// A counter per value of `label`. The values are words of the program, never of a client.
    pub fn counters(&self, name: &'static str, help: &str, label: &'static str) -> Counters {
        let new = || Metric::Counters(Counters { label, family: family::Family::default() });
        match self.metric(name, help, new) {
            Metric::Counters(counters) => counters,
            _ => panic!("{name} is registered as another kind of metric"),
        }
    }

    /// A gauge per value of `label`.
    pub fn gauges(&self, name: &'static str, help: &str, label: &'static str) -> Gauges {
        let new = || Metric::Gauges(Gauges { label, family: family::Family::default() });
        match self.metric(name, help, new) {
            Metric::Gauges(gauges) => gauges,
            _ => panic!("{name} is registered as another kind of metric"),
        }
    }

    /// What this process is, as labels of a metric that is always 1: `name` without prefix and without `_info`. The operator's
    /// words, never a client's. The first to say it is believed.
    pub fn info(&self, name: &'static str, help: &str, labels: Vec<(&'static str, String)>) {
        let mut inner = self.lock();
        if inner.known.insert(name, Metric::Info).is_none() {
            inner.registry.register(format!("{PREFIX}_{name}"), help, info::Info::new(labels));
        }
    }

    /// Everything, in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.lock().registry).expect("writing to a String cannot fail");
        text
    }

    fn metric(&self, name: &'static str, help: &str, new: impl FnOnce() -> Metric) -> Metric {
        let mut inner = self.lock();
        if let Some(metric) = inner.known.get(name) {
            return metric.clone();
        }
        let metric = new();
        let full = format!("{PREFIX}_{name}");
        match &metric {
            Metric::Counter(counter) => inner.registry.register(full, help, counter.clone()),
            Metric::Gauge(gauge) => inner.registry.register(full, help, gauge.clone()),
            Metric::Counters(counters) => inner.registry.register(full, help, counters.family.clone()),
            Metric::Gauges(gauges) => inner.registry.register(full, help, gauges.family.clone()),
            Metric::Info => unreachable!("`info` registers itself"),
        }
        inner.known.insert(name, metric.clone());
        metric
    }

    /// A thread that panicked while it held the lock left a registry that is whole: entries are added last.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({} metrics)", self.lock().known.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_in_the_text() {
        let registry = Registry::new();
        let drops = registry.counters("media_drops", "Datagrams that were dropped", "reason");
        drops.inc("unknown");
        drops.with("replay").inc_by(2);
        registry.counter("calls", "Calls that ended").inc();
        registry.gauge("rooms", "Rooms that are open").set(3);
        registry.gauges("workers", "Workers", "state").with("idle").inc();
        registry.counters("bytes", "Bytes", "to").with_also("peer", ("transport", "udp")).inc_by(7);
        registry.info("turn", "What the relay is", vec![("realm", "a \"b\"".into())]);
        registry.info("turn", "What the relay is", vec![("realm", "another".into())]);
        let text = registry.encode();
        for line in [
            "# HELP causeway_media_drops Datagrams that were dropped.",
            "causeway_media_drops_total{reason=\"unknown\"} 1",
            "causeway_media_drops_total{reason=\"replay\"} 2",
            "causeway_calls_total 1",
            "causeway_rooms 3",
            "causeway_workers{state=\"idle\"} 1",
            "causeway_bytes_total{to=\"peer\",transport=\"udp\"} 7",
            "causeway_turn_info{realm=\"a \\\"b\\\"\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_name_asked_for_twice_is_one_metric() {
        let registry = Registry::new();
        registry.counter("calls", "Calls").inc();
        registry.clone().counter("calls", "Calls").inc();
        let text = registry.encode();
        assert_eq!(text.matches("# TYPE causeway_calls ").count(), 1);
        assert!(text.contains("causeway_calls_total 2"));
    }
}
