//! Where settings come from, and which wins: the TOML file, over it the environment, over it `--set`.
//!
//! The three are merged into one tree of untyped values. Text from the environment and from `--set` keeps its own kind, so
//! that a secret of digits stays a secret and a port given as text becomes a number. `parse` gives the values their types.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// A setting that cannot be used, in one line: `media.port: …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct ConfigError {
    setting: String,
    reason: String,
}

impl ConfigError {
    /// Names the setting and says what is wrong with it. Line breaks and control characters become spaces.
    pub fn new(setting: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        let one_line = |text: String| text.replace(char::is_control, " ").trim().to_owned();
        Self { setting: one_line(setting.into()), reason: one_line(reason.to_string()) }
    }

    /// The setting's name, for example `media.port`.
    pub fn setting(&self) -> &str {
        &self.setting
    }
}

/// Everything that a configuration is made of. Reading files and the environment is the caller's, so that tests need
/// neither.
pub struct Sources<'a> {
    /// The TOML file's name, for messages, and its text.
    pub file: Option<(&'a str, &'a str)>,
    /// Environment variables; those of the form `CAUSEWAY_SECTION__KEY` are settings, others are passed over.
    pub env: &'a mut dyn Iterator<Item = (String, String)>,
    /// The arguments of `--set`: `section.key=value`.
    pub set: &'a [String],
    /// Development mode: other defaults, loopback only.
    pub dev: bool,
    /// Fresh random bytes: development mode's token secret, and the relay's secret when none is configured.
    pub seed: [u8; 32],
    /// How many cores there are: the number of workers when `media.workers` is 0.
    pub cores: usize,
    /// Reads the files that settings name: secrets, keys, certificates.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
}

/// A value whose type is not yet known to be right.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// From the file, or written as TOML in brackets or quotes.
    Toml(toml::Value),
    /// From the environment or `--set`.
    Text(String),
}

/// A setting or a section.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// `[section]`, or a table inside one.
    Table(Table),
    /// A setting.
    Leaf(Value),
}

/// Settings by key.
pub(super) type Table = BTreeMap<String, Node>;

/// Ways of giving one and the same thing: a higher layer's choice replaces every form of a lower one.
pub(super) const EXCLUSIVE: [&[&str]; 2] =
    [&["secret", "secret_file", "jwks_file", "public_key_file"], &["url", "url_file"]];

/// The longest settings path, in segments: `turn.users.alice`.
const DEPTH_MAX: usize = 3;

/// All sources in one tree.
pub(super) fn merge(sources: &mut Sources<'_>) -> Result<Table, ConfigError> {
    let mut tree = Table::new();
    if let Some((name, text)) = sources.file {
        overlay(&mut tree, from_toml(name, text)?);
    }
    overlay(&mut tree, from_env(&mut *sources.env)?);
    overlay(&mut tree, from_set(sources.set)?);
    Ok(tree)
}

fn from_toml(name: &str, text: &str) -> Result<Table, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let offset = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = 1 + text.bytes().take(offset).filter(|&b| b == b'\n').count();
        ConfigError::new(name, format!("line {line}: {}", error.message()))
    })?;
    Ok(table.into_iter().map(|(key, value)| (key, node(value))).collect())
}

fn node(value: toml::Value) -> Node {
    match value {
        toml::Value::Table(table) => Node::Table(table.into_iter().map(|(k, v)| (k, node(v))).collect()),
        other => Node::Leaf(Value::Toml(other)),
    }
}

fn from_env(env: &mut dyn Iterator<Item = (String, String)>) -> Result<Table, ConfigError> {
    let mut layer = Table::new();
    for (name, text) in env {
        let Some(path) = name.strip_prefix("CAUSEWAY_").filter(|path| path.contains("__")) else { continue };
        insert(&mut layer, &path.to_ascii_lowercase().replace("__", "."), text)?;
    }
    Ok(layer)
}

fn from_set(set: &[String]) -> Result<Table, ConfigError> {
    let mut layer = Table::new();
    for argument in set {
        let Some((path, text)) = argument.split_once('=') else {
            return Err(ConfigError::new("--set", "expected section.key=value"));
        };
        insert(&mut layer, path.trim(), text.to_owned())?;
    }
    Ok(layer)
}

fn insert(layer: &mut Table, path: &str, text: String) -> Result<(), ConfigError> {
    let segments: Vec<&str> = path.split('.').collect();
    if !(2..=DEPTH_MAX).contains(&segments.len()) || segments.iter().any(|segment| segment.is_empty()) {
        return Err(ConfigError::new(path, "expected section.key"));
    }
    let leaf = written(text).map_err(|reason| ConfigError::new(path, reason))?;
    let inside_out = segments[1..]
        .iter()
        .rev()
        .fold(leaf, |inner, key| Node::Table(Table::from([((*key).to_owned(), inner)])));
    graft(layer, Table::from([(segments[0].to_owned(), inside_out)]));
    Ok(())
}

/// Text in brackets, braces or quotes is TOML; anything else, `[::1]:443` too, is taken as it stands.
fn written(text: String) -> Result<Node, String> {
    let trimmed = text.trim();
    let within = |open, close| trimmed.len() > 1 && trimmed.starts_with(open) && trimmed.ends_with(close);
    if !(within('[', ']') || within('{', '}') || within('"', '"')) {
        return Ok(Node::Leaf(Value::Text(text)));
    }
    let mut table: toml::Table =
        format!("v = {trimmed}").parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    match (table.remove("v"), table.is_empty()) {
        (Some(value), true) => Ok(node(value)),
        _ => Err("expected one value".into()),
    }
}

/// Lays `layer` over `base`: tables are merged, settings replaced, and with a setting its other forms.
fn overlay(base: &mut Table, layer: Table) {
    for (section, node) in &layer {
        if let (Some(Node::Table(below)), Node::Table(above)) = (base.get_mut(section), node) {
            for forms in EXCLUSIVE.iter().filter(|forms| forms.iter().any(|form| above.contains_key(*form))) {
                below.retain(|key, _| !forms.contains(&key.as_str()));
            }
        }
    }
    graft(base, layer);
}

fn graft(base: &mut Table, layer: Table) {
    for (key, node) in layer {
        match (base.get_mut(&key), node) {
            (Some(Node::Table(below)), Node::Table(above)) => graft(below, above),
            (_, node) => {
                base.insert(key, node);
            }
        }
    }
}

impl Value {
    /// The value as a string.
    pub(super) fn string(&self) -> Result<&str, String> {
        match self {
            Self::Text(text) | Self::Toml(toml::Value::String(text)) => Ok(text),
            Self::Toml(other) => Err(format!("expected text in quotes, found {}", other.type_str())),
        }
    }

    /// The value as a whole number between `min` and `max`.
    pub(super) fn number(&self, min: u64, max: u64) -> Result<u64, String> {
        let number = match self {
            Self::Toml(toml::Value::Integer(number)) => u64::try_from(*number).ok(),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Toml(_) => None,
        };
        number
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| format!("expected a whole number from {min} to {max}"))
    }

    /// The value as `true` or `false`.
    pub(super) fn flag(&self) -> Result<bool, String> {
        match self {
            Self::Toml(toml::Value::Boolean(flag)) => Ok(*flag),
            Self::Text(text) if text == "true" => Ok(true),
            Self::Text(text) if text == "false" => Ok(false),
            _ => Err("expected true or false".into()),
        }
    }

    /// The value as a list of strings: a TOML array, one string, or text with commas.
    pub(super) fn list(&self) -> Result<Vec<String>, String> {
        match self {
            Self::Toml(toml::Value::Array(items)) => {
                let string = |item: &toml::Value| item.as_str().map(str::to_owned);
                items
                    .iter()
                    .map(string)
                    .collect::<Option<_>>()
                    .ok_or_else(|| "expected a list of strings".into())
            }
            Self::Toml(toml::Value::String(text)) => Ok(vec![text.clone()]),
            Self::Text(text) => Ok(text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect()),
            Self::Toml(other) => Err(format!("expected a list of strings, found {}", other.type_str())),
        }
    }

    /// The value's text, also when it was written as a bare number.
    pub(super) fn quantity(&self) -> Result<String, String> {
        match self {
            Self::Toml(toml::Value::Integer(number)) => Ok(number.to_string()),
            other => other.string().map(str::to_owned),
        }
    }
}
