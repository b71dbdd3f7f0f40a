//! What a `turnserver.conf` says about the process rather than the relay.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogTo {
    /// Standard output.
    #[default]
    Stdout,
    /// A file, opened again on SIGHUP.
    File(PathBuf),
    /// The system's log.
    Syslog,
    /// Nowhere.
    Nowhere,
}

impl LogTo {
    /// coturn's `log-file`.
    pub(super) fn named(value: &str) -> Self {
        match value {
            "" | "stdout" | "-" => Self::Stdout,
            "syslog" => Self::Syslog,
            path => Self::File(path.into()),
        }
    }
}

/// How the process lives.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Where log lines go.
    pub log: LogTo,
    /// The level, or tracing's own `target=level` list.
    pub log_level: &'static str,
    /// Written after the listeners are bound, removed at the end.
    pub pid_file: Option<PathBuf>,
    /// Detaches from the terminal.
    pub daemon: bool,
    /// Who it becomes after the listeners are bound.
    pub run_as_user: Option<String>,
    /// As `run_as_user`; the user's own group when it is not said.
    pub run_as_group: Option<String>,
    /// A draining process ends when it has no more allocations than this.
    pub drain_min_allocations: usize,
    /// Where `/metrics` is served.
    pub metrics: Option<SocketAddr>,
}
