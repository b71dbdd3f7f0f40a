//! coturn's configuration file and command line: what they say becomes [`Settings`], and every key has its [`Note`].
//!
//! `syntax` takes lines and arguments apart, `keys` is the table of all keys, `values` what their values look like, `draft` what
//! they come to together. Nothing is read from the disk or the network here: the shell says what it has ([`Environment`]).
//! A key that cannot be followed is never passed over in silence.

mod ciphers;
mod describe;
mod draft;
mod keys;
mod process;
mod syntax;
mod values;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;

pub use draft::readable;
pub use keys::options;
pub use process::{LogTo, Process};
pub use syntax::{Entry, File, Place, arguments, lines};

use crate::settings::Settings;
use draft::Draft;
use keys::Fate;

/// What the machine has.
pub struct Environment<'a> {
    /// Addresses of its interfaces.
    pub addresses: &'a [IpAddr],
    /// Its name; the realm when none is given.
    pub host_name: &'a str,
    /// Whether a file can be read; [`readable`].
    pub readable: &'a dyn Fn(&Path) -> io::Result<()>,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is followed.
    Followed,
    /// There is nothing to do for it, and why.
    Accepted(String),
    /// It runs without, and what that means.
    Warned(String),
    /// Nothing is started.
    Refused(String),
}

/// A key, where it stands, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Where.
    pub place: Place,
    /// The key.
    pub key: String,
    /// What it was given; a secret shows its length alone.
    pub value: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        match &self.outcome {
            Outcome::Followed => Ok(()),
            Outcome::Accepted(why) => write!(f, " (nothing to do: {why})"),
            Outcome::Warned(why) => write!(f, " (warning: {why})"),
            Outcome::Refused(why) => write!(f, " (refused: {why})"),
        }
    }
}

/// A configuration that has been read.
#[derive(Debug, Clone)]
pub struct Conf {
    /// The relay's.
    pub settings: Settings,
    /// The process's.
    pub process: Process,
    /// One for each key, in the order that they were read, and those about several keys.
    pub notes: Vec<Note>,
}

impl Conf {
    /// Reads entries: those of the file first, then the command line's, which win; lists grow.
    pub fn read(entries: impl IntoIterator<Item = Entry>, environment: &Environment<'_>) -> Self {
        let mut draft = Draft::default();
        let mut notes: Vec<Note> = entries.into_iter().map(|entry| take(&mut draft, entry)).collect();
        let (settings, process) = draft.finish(environment, &mut notes);
        Self { settings, process, notes }
    }

    /// Why nothing may be started; empty when all is well.
    pub fn refusals(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(|note| matches!(note.outcome, Outcome::Refused(_)))
    }

    /// What an operator should know of.
    pub fn warnings(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(|note| matches!(note.outcome, Outcome::Warned(_)))
    }
}

fn take(draft: &mut Draft, Entry { place, key, value }: Entry) -> Note {
    let Some(row) = keys::find(&key) else {
        let outcome = Outcome::Warned("Bad configuration format: unknown key".into());
        return Note { place, key, value: None, outcome }; // its value may be a secret
    };
    let text = value.as_deref().unwrap_or_default();
    let is_off = row.takes != keys::Takes::Value && matches!(values::flag(value.as_deref()), Ok(false));
    let outcome = match row.fate {
        Fate::Set(_) if value.is_none() && row.takes == keys::Takes::Value => {
            Outcome::Refused("expected a value".into())
        }
        Fate::Set(set) => match set(draft, text) {
            Ok(()) => Outcome::Followed,
            Err(reason) => Outcome::Refused(reason),
        },
        Fate::Flag(set) => match values::flag(value.as_deref()) {
            Ok(on) => {
                set(draft, on);
                Outcome::Followed
            }
            Err(reason) => Outcome::Refused(reason),
        },
        Fate::Warn(_) | Fate::Refuse(_) if is_off => Outcome::Accepted("off".into()),
        Fate::Accept(why) => Outcome::Accepted(why.into()),
        Fate::Warn(why) => Outcome::Warned(why.into()),
        Fate::Refuse(why) => Outcome::Refused(why.into()),
    };
    let shown = value.map(|value| if row.is_secret { format!("({} bytes)", value.len()) } else { value });
    Note { place, key, value: shown, outcome }
}
