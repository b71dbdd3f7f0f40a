//! What accept loops share: how many files the process may have open, and what to do when it may not have more.
//!
//! Connections are let in up to a share of that number ([`super::Gate`]), so that the loops run out of it only when something
//! else holds the files.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::metrics::{Counter, Registry};

/// Without files, accepting again at once would only spin.
const PAUSE: Duration = Duration::from_millis(100);

/// One warning tells an operator as much as ten per second.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Files that may be open at once; the soft limit is what counts.
pub fn open_files() -> usize {
    let unlimited = usize::MAX / 2;
    getrlimit(Resource::Nofile).current.map_or(unlimited, |limit| usize::try_from(limit).unwrap_or(unlimited))
}

/// Raises the soft limit of open files to the hard one. The soft one is low for the sake of programs that use `select`.
pub fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }); // what there is must do
}

/// The errors of one accept loop: counted, told to the operator now and then, and waited out.
#[derive(Debug)]
pub struct AcceptErrors {
    listener: &'static str,
    failures: Counter,
    warned_at: Option<Instant>,
}

impl AcceptErrors {
    /// `listener` is a word for the metric's label: `http`, `media`.
    pub fn new(registry: &Registry, listener: &'static str) -> Self {
        let failures = registry.counters(
            "accept_failures",
            "Attempts to accept a TCP connection that the system refused",
            "listener",
        );
        Self { listener, failures: failures.with(listener), warned_at: None }
    }

    /// How long to wait before the next attempt; `None` when only the connection at hand was at fault.
    pub fn pause(&mut self, now: Instant, error: &io::Error) -> Option<Duration> {
        if is_of_one_connection(error) {
            return None;
        }
        self.failures.inc();
        if self.warned_at.is_none_or(|at| now.duration_since(at) >= WARN_INTERVAL) {
            self.warned_at = Some(now);
            let listener = self.listener;
            tracing::warn!(listener, %error, "cannot accept connections: raise the limit of open files");
        }
        Some(PAUSE)
    }
}

/// `accept` also reports what befell a connection that was waiting; the next may be well.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_befalls_the_listener_pauses_it_and_is_counted() {
        let registry = Registry::new();
        let mut errors = AcceptErrors::new(&registry, "http");
        let now = Instant::now();
        assert_eq!(errors.pause(now, &io::ErrorKind::ConnectionAborted.into()), None);
        assert_eq!(errors.pause(now, &io::Error::other("too many open files")), Some(PAUSE));
        let text = registry.encode();
        assert!(text.contains("causeway_accept_failures_total{listener=\"http\"} 1"), "{text}");
    }

    #[test]
    fn the_limit_of_open_files_is_known_and_not_lowered() {
        let before = open_files();
        raise_open_files();
        assert!(before > 0 && open_files() >= before);
    }
}
