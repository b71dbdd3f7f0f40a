//! Where log lines go: standard output, a file that is opened again when it was moved away, or the system's log.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use turn::conf::{LogTo, Process};

/// Where syslog listens.
const SYSLOG: &str = "/dev/log";
/// RFC 5424 §6.2.1: system daemons.
const FACILITY_DAEMON: u8 = 3;
/// A line is cut there; RFC 5424 §6.1 wants 2048 to be taken.
const SYSLOG_LINE_MAX: usize = 2048;

/// The log that was started.
pub(super) struct Log {
    file: Option<Arc<LogFile>>,
}

impl Log {
    /// Opens the file again, under its name.
    pub(super) fn reopen(&self) {
        let Some(file) = &self.file else { return };
        match file.reopen() {
            Ok(()) => tracing::info!("the log file is opened again"),
            Err(error) => tracing::error!(%error, "the log file cannot be opened again"),
        }
    }
}

/// Starts logging.
pub(super) fn start(process: &Process) -> anyhow::Result<Log> {
    let filter = EnvFilter::try_new(process.log_level).context("log level")?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    let mut log = Log { file: None };
    match &process.log {
        LogTo::Stdout => lines.with_ansi(io::stdout().is_terminal()).with_writer(io::stdout).init(),
        LogTo::Nowhere => {}
        LogTo::Syslog => {
            let socket = UnixDatagram::unbound().and_then(|socket| socket.connect(SYSLOG).map(|()| socket));
            let socket = Arc::new(socket.with_context(|| format!("syslog: {SYSLOG}"))?);
            lines.without_time().with_writer(Syslog { socket }).init(); // syslog has its own clock
        }
        LogTo::File(path) => {
            let file = LogFile::open(path.clone()).with_context(|| format!("log-file {}", path.display()))?;
            let file = Arc::new(file);
            lines.with_writer(Arc::clone(&file)).init();
            log.file = Some(file);
        }
    }
    Ok(log)
}

struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { file: Mutex::new(append_to(&path)?), path })
    }

    fn reopen(&self) -> io::Result<()> {
        let file = append_to(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

fn append_to(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Syslog {
    socket: Arc<UnixDatagram>,
}

/// One line on its way.
struct SyslogLine {
    socket: Arc<UnixDatagram>,
    severity: u8,
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = SyslogLine;

    fn make_writer(&'a self) -> SyslogLine {
        SyslogLine { socket: Arc::clone(&self.socket), severity: severity(Level::INFO) }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> SyslogLine {
        SyslogLine { socket: Arc::clone(&self.socket), severity: severity(*meta.level()) }
    }
}

/// RFC 5424 §6.2.1.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// `<PRI>TAG[PID]: text`, as the local socket takes it (RFC 3164 §4.1 without the time).
fn syslog_message(severity: u8, pid: u32, line: &[u8]) -> Vec<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut message = format!("<{}>causeway[{pid}]: ", FACILITY_DAEMON * 8 + severity).into_bytes();
    message.extend_from_slice(line);
    message.truncate(SYSLOG_LINE_MAX);
    message
}

impl Write for SyslogLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A syslog that is away loses lines, never the service.
        let _ = self.socket.send(&syslog_message(self.severity, std::process::id(), line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_syslog() {
        assert_eq!(syslog_message(severity(Level::WARN), 7, b"watch out\n"), b"<28>causeway[7]: watch out");
        assert_eq!(syslog_message(6, 7, &[b'x'; 9000]).len(), SYSLOG_LINE_MAX);
    }
}
