//! A process's life as operators know it from coturn: the daemon, its pid file, and the user that it becomes.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::unistd::{Group, User, setgid, setgroups, setuid};
use turn::conf::Process;

/// Set for the process that a daemon is.
const DAEMON: &str = "CAUSEWAY_DAEMON";
/// What it writes once it serves.
const READY: &[u8] = b"ready";

/// Whether this process was started to be the daemon.
pub(super) fn is_daemon() -> bool {
    std::env::var_os(DAEMON).is_some()
}

/// Starts this program again, in a session of its own, and returns once that one serves. What it cannot do is on its
/// standard error, which is ours.
pub(super) fn become_daemon() -> anyhow::Result<()> {
    let program = std::env::current_exe().context("daemon: the path of this program")?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(DAEMON, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("daemon")?;
    let mut said = Vec::new();
    let output = child.stdout.take().context("daemon: its output")?;
    output.take(READY.len() as u64).read_to_end(&mut said).context("daemon: its output")?;
    if said == READY {
        return Ok(());
    }
    let status = child.wait().context("daemon")?;
    bail!("daemon: it ended before it served, with {status}");
}

/// Tells the process that waits in [`become_daemon`], and leaves its terminal.
pub(super) fn tell_ready() {
    if !is_daemon() {
        return;
    }
    let mut output = std::io::stdout();
    let told = output.write_all(READY).and_then(|()| output.flush());
    let alone = rustix::process::setsid();
    tracing::debug!(told = told.is_ok(), alone = alone.is_ok(), "serving as a daemon");
}

/// A file with our process id, removed when we end.
pub(super) struct PidFile(PathBuf);

impl PidFile {
    pub(super) fn write(path: &Path) -> anyhow::Result<Self> {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .with_context(|| format!("pidfile {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0); // the user that we became may not be allowed to
    }
}

/// Gives up root: `proc-user` and `proc-group`.
pub(super) fn become_user(process: &Process) -> anyhow::Result<()> {
    let user = process.run_as_user.as_deref().map(|name| {
        User::from_name(name)?.with_context(|| format!("proc-user {name}: there is no such user"))
    });
    let group = process.run_as_group.as_deref().map(|name| {
        Group::from_name(name)?.with_context(|| format!("proc-group {name}: there is no such group"))
    });
    let (user, group) = (user.transpose()?, group.transpose()?);
    if let Some(gid) = group.map(|group| group.gid).or(user.as_ref().map(|user| user.gid)) {
        setgroups(&[gid]).and_then(|()| setgid(gid)).context("proc-group: only root may change it")?;
    }
    if let Some(user) = user {
        setuid(user.uid).context("proc-user: only root may change it")?;
    }
    Ok(())
}
