//! Lines of a `turnserver.conf` and arguments of coturn's command line, taken apart; what they mean is `keys`' to say.
//!
//! A line is `key`, `key=value` or `key value`; a value may be quoted; `#` begins a comment, at the start of a line or after
//! white space outside of quotes. An argument is `--key`, `--key=value`, `--key value`, `-k` or `-k value`.

use std::fmt;

use super::keys::{self, Takes};

/// Where something was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line of the file, from 1.
    Line(usize),
    /// The command line.
    CommandLine,
    /// Nowhere: several keys together, or one that is missing.
    Whole,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::CommandLine => f.write_str("command line"),
            Self::Whole => f.write_str("in all"),
        }
    }
}

/// A key and what it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub place: Place,
    /// Without dashes; for an unknown short option its letter.
    pub key: String,
    /// `None` when it stands alone.
    pub value: Option<String>,
}

/// Where the configuration file is, by the command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum File {
    /// Not said: the usual place, if there is one.
    #[default]
    Usual,
    /// `-c FILE`
    Named(String),
    /// `-n`
    Nowhere,
}

/// The entries of a file, comments and empty lines left out.
pub fn lines(text: &str) -> impl Iterator<Item = Entry> + '_ {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    text.lines().enumerate().filter_map(|(index, line)| line_entry(Place::Line(index + 1), line))
}

fn line_entry(place: Place, line: &str) -> Option<Entry> {
    let line = without_comment(line).trim();
    if line.is_empty() {
        return None;
    }
    let end = line.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(line.len());
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let value = match rest.strip_prefix('=') {
        Some(value) => Some(unquoted(value)),
        None if rest.is_empty() => None,
        None => Some(unquoted(rest)),
    };
    Some(Entry { place, key: key.trim_start_matches('-').to_owned(), value })
}

/// Cuts at a `#` that begins the line or follows white space, unless a quote is open. `#` inside of a secret stays.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before.is_whitespace() => return &line[..at],
            (None, '"' | '\'') if before == '=' || before.is_whitespace() => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        before = c;
    }
    line
}

fn unquoted(value: &str) -> String {
    let value = value.trim();
    let inside = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    inside.unwrap_or(value).to_owned()
}

/// The entries of a command line, and which file it wants.
pub fn arguments(arguments: &[String]) -> Result<(File, Vec<Entry>), String> {
    let mut file = File::Usual;
    let mut entries = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (key, attached) = split(argument)?;
        let takes = match key.as_str() {
            "n" => Takes::Nothing,
            "c" => Takes::Value,
            key => keys::find(key).map_or(Takes::Maybe, |key| key.takes),
        };
        let value = match (attached, takes) {
            (Some(value), _) => Some(value),
            (None, Takes::Value) => {
                Some(rest.next().ok_or_else(|| format!("{argument}: expected a value"))?.clone())
            }
            (None, Takes::Nothing | Takes::Maybe) => None,
        };
        match (key.as_str(), value) {
            ("n", _) => file = File::Nowhere,
            ("c", Some(path)) => file = File::Named(path),
            (_, value) => entries.push(Entry { place: Place::CommandLine, key, value }),
        }
    }
    Ok((file, entries))
}

/// The long name of an option, and the value that hangs on it.
fn split(argument: &str) -> Result<(String, Option<String>), String> {
    if let Some(long) = argument.strip_prefix("--").filter(|long| !long.is_empty()) {
        let (key, value) = long.split_once('=').map_or((long, None), |(key, value)| (key, Some(value)));
        return Ok((key.to_owned(), value.map(unquoted)));
    }
    let short = argument.strip_prefix('-').and_then(|short| {
        let mut letters = short.chars();
        Some((letters.next()?, letters.as_str()))
    });
    let Some((letter, attached)) = short else {
        return Err(format!("{argument}: expected an option, such as --listening-port=3478"));
    };
    let key = match letter {
        'n' | 'c' => letter.to_string(),
        letter => keys::find_short(letter).map_or(letter.to_string(), |key| key.name.to_owned()),
    };
    let attached = attached.strip_prefix('=').unwrap_or(attached);
    Ok((key, (!attached.is_empty()).then(|| unquoted(attached))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> Option<(String, Option<String>)> {
        line_entry(Place::Line(1), text).map(|entry| (entry.key, entry.value))
    }

    fn is(key: &str, value: Option<&str>) -> Option<(String, Option<String>)> {
        Some((key.to_owned(), value.map(str::to_owned)))
    }

    #[test]
    fn lines_in_all_their_forms() {
        let cases = [
            ("", None),
            ("   # a comment", None),
            ("fingerprint", is("fingerprint", None)),
            ("  realm = example.org  ", is("realm", Some("example.org"))),
            ("realm example.org", is("realm", Some("example.org"))),
            ("realm=\"example org\" # ours", is("realm", Some("example org"))),
            ("static-auth-secret='a#b # c'", is("static-auth-secret", Some("a#b # c"))),
            ("static-auth-secret=a#b", is("static-auth-secret", Some("a#b"))),
            ("user=alice:pa=ss", is("user", Some("alice:pa=ss"))),
            ("min-port=49152\t# first", is("min-port", Some("49152"))),
            ("external-ip=", is("external-ip", Some(""))),
            ("--verbose", is("verbose", None)),
            ("cert=it's.pem # x", is("cert", Some("it's.pem"))),
        ];
        for (text, expected) in cases {
            assert_eq!(line(text), expected, "{text}");
        }
        let windows: Vec<Entry> = lines("\u{FEFF}no-tls\r\n\r\nrealm=a\r\n").collect();
        assert_eq!(
            windows.iter().map(|entry| entry.place).collect::<Vec<_>>(),
            [Place::Line(1), Place::Line(3)]
        );
        assert_eq!(windows[1].value.as_deref(), Some("a"));
    }

    #[test]
    fn arguments_in_all_their_forms() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (file, entries) = arguments(&words(
            "-v -p 3479 -L10.0.0.1 --realm=a --min-port 5 --stale-nonce --fingerprint -c /x",
        ))
        .expect("all are options");
        assert_eq!(file, File::Named("/x".into()));
        let said: Vec<_> = entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_deref())).collect();
        let expected = [
            ("verbose", None),
            ("listening-port", Some("3479")),
            ("listening-ip", Some("10.0.0.1")),
            ("realm", Some("a")),
            ("min-port", Some("5")),
            ("stale-nonce", None),
            ("fingerprint", None),
        ];
        assert_eq!(said, expected);
        assert_eq!(arguments(&words("-n")).expect("an option").0, File::Nowhere);
        assert!(arguments(&words("turnserver.conf")).is_err());
        assert!(arguments(&words("--realm")).is_err());
    }

    proptest! {
        /// Nothing that can stand in a file is too much.
        #[test]
        fn any_text_is_read(text in any::<String>()) {
            for entry in lines(&text) {
                prop_assert!(!entry.key.contains(['=', ' ', '\n']));
            }
        }
    }
}
