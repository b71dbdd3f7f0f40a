//! Records that wait on disk while the database is away: JSON lines, appended, replayed when it is back or at the next start.
//!
//! `calls.jsonl` is appended to. To replay, it is renamed to `calls.replay.jsonl`, and removed once every line is in the
//! database; a crash in between replays it again, which the record ids make harmless. Lines that cannot be read, such as
//! one cut off by a full disk, are kept in `calls.unreadable.jsonl` for the operator.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use common::call_record::CallRecord;

/// Enough for some million calls. A record beyond it is lost, and counted.
const BYTES_MAX: u64 = 1 << 30;

/// The waiting files of one directory.
pub(super) struct Spill {
    dir: PathBuf,
    file: Option<(File, u64)>,
    /// Whether anything may be on disk.
    waiting: bool,
}

impl Spill {
    /// Uses `dir`, which is made when it is missing. What an earlier run left there is waiting.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut spill = Self { dir: dir.to_owned(), file: None, waiting: false };
        spill.waiting = fs::exists(spill.path("calls"))? || fs::exists(spill.path("calls.replay"))?;
        Ok(spill)
    }

    /// Whether records wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Appends one record. It survives the end of the process; the disk is not asked to sync.
    pub(super) fn append(&mut self, record: &CallRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(self.path("calls"))?;
            let len = file.metadata()?.len();
            self.file = Some((file, len));
        }
        let (file, len) = self.file.as_mut().expect("it was just opened");
        if *len + line.len() as u64 > BYTES_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Err(error) = file.write_all(&line) {
            file.set_len(*len)?; // no half line in front of the next one
            return Err(error);
        }
        *len += line.len() as u64;
        self.waiting = true;
        Ok(())
    }

    /// Puts the waiting records aside for replay. `None` when there are none.
    pub(super) fn replay(&mut self) -> io::Result<Option<Replay>> {
        let (from, to) = (self.path("calls"), self.path("calls.replay"));
        if !fs::exists(&to)? {
            if !fs::exists(&from)? {
                self.waiting = false;
                return Ok(None);
            }
            self.file = None;
            fs::rename(from, &to)?;
        }
        let lines = BufReader::new(File::open(&to)?);
        Ok(Some(Replay { lines, path: to, unreadable: self.path("calls.unreadable") }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.jsonl"))
    }
}

/// Records on their way back.
pub(super) struct Replay {
    lines: BufReader<File>,
    path: PathBuf,
    unreadable: PathBuf,
}

impl Replay {
    /// The next records, at most `max`; none at the end.
    pub(super) fn batch(&mut self, max: usize) -> io::Result<Vec<CallRecord>> {
        let mut records = Vec::new();
        let mut line = Vec::new();
        while records.len() < max {
            line.clear();
            if self.lines.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            match serde_json::from_slice(&line) {
                Ok(record) => records.push(record),
                Err(_) => self.keep(&line)?,
            }
        }
        Ok(records)
    }

    /// Everything is in the database.
    pub(super) fn finish(self) -> io::Result<()> {
        fs::remove_file(self.path)
    }

    fn keep(&self, line: &[u8]) -> io::Result<()> {
        tracing::warn!(file = %self.unreadable.display(), "a waiting call record cannot be read; it is kept there");
        let mut file = OpenOptions::new().create(true).append(true).open(&self.unreadable)?;
        file.write_all(line)?;
        if line.ends_with(b"\n") { Ok(()) } else { file.write_all(b"\n") }
    }
}
