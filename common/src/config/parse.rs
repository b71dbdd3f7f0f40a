//! From untyped values to [`Config`], section by section; every refusal names its setting.
//!
//! A [`Section`] hands out its settings and at its end refuses what nobody asked for, so a misspelt key cannot be missed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::hmac;

use super::layers::{self, ConfigError, EXCLUSIVE, Node, Sources, Table, Value};
use super::units::{parse_bitrate, parse_duration, parse_size};
use super::{
    Auth, AuthKey, Config, Http, Limits, Log, Media, Metrics, Secret, Signaling, Store, TlsFiles, Turn,
};

/// An HMAC key shorter than the hash is refused (RFC 7518 §3.2).
const AUTH_SECRET_BYTES_MIN: usize = 32;
/// Files that settings name are small; a larger one is a mistake.
const NAMED_FILE_BYTES_MAX: usize = 1 << 20;
/// One worker per port; more than this is a mistake.
const WORKERS_MAX: u64 = 1024;
/// More are more than a room holds.
const SPEAKERS_MAX: u64 = 100_000;
/// Most workers of the relay, as with coturn.
const TURN_WORKERS_MAX: u64 = 128;
/// What the router can negotiate, in the default order of preference.
const CODECS: [&str; 5] = ["opus", "VP8", "VP9", "H264", "AV1"];
/// Home of the embedded database in production.
const STATE_DIR: &str = "/var/lib/causeway";
/// Home of the embedded database in development mode, below the working directory.
const DEV_STATE_DIR: &str = "causeway-data";

type Result<T> = std::result::Result<T, ConfigError>;

impl Config {
    /// Merges and checks all sources.
    pub fn load(mut sources: Sources<'_>) -> Result<Self> {
        let tree = layers::merge(&mut sources)?;
        let Sources { dev, seed, cores, read_file, .. } = sources;
        let config = Parser { dev, seed, cores, read_file, tree }.config()?;
        if config.dev {
            loopback_only(&config)?;
        }
        Ok(config)
    }

    /// Development mode with nothing overridden. The secret signs tokens.
    pub fn dev(secret: [u8; 32]) -> Self {
        Self::load(Sources {
            file: None,
            env: &mut std::iter::empty(),
            set: &[],
            dev: true,
            seed: secret,
            cores: 1,
            read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        })
        .expect("the defaults of development mode are valid")
    }
}

/// Takes the tree apart, section by section.
struct Parser<'a> {
    dev: bool,
    seed: [u8; 32],
    cores: usize,
    read_file: ReadFile<'a>,
    tree: Table,
}

type ReadFile<'a> = &'a dyn Fn(&Path) -> std::io::Result<Vec<u8>>;

impl<'a> Parser<'a> {
    fn config(mut self) -> Result<Config> {
        let dev = self.dev;
        let http = self.http()?;
        let auth = self.auth()?;
        let signaling = self.signaling()?;
        let media = self.media()?;
        let turn = self.turn(&media, &http)?;
        let store = self.store()?;
        let limits = self.limits()?;
        let log = self.log()?;
        let metrics = self.metrics()?;
        if let Some(section) = self.tree.keys().next() {
            return Err(ConfigError::new(section.as_str(), "unknown section"));
        }
        Ok(Config { dev, http, auth, signaling, media, turn, store, limits, log, metrics })
    }

    fn section(&mut self, name: &'static str) -> Result<Section<'a>> {
        let keys = match self.tree.remove(name) {
            None => Table::new(),
            Some(Node::Table(keys)) => keys,
            Some(Node::Leaf(_)) => {
                return Err(ConfigError::new(name, format!("expected a section, [{name}]")));
            }
        };
        for forms in EXCLUSIVE {
            let given: Vec<&str> = forms.iter().copied().filter(|form| keys.contains_key(*form)).collect();
            if let [first, second, ..] = given[..] {
                return Err(ConfigError::new(
                    format!("{name}.{second}"),
                    format!("given together with {name}.{first}"),
                ));
            }
        }
        Ok(Section { name, keys, read_file: self.read_file })
    }

    fn http(&mut self) -> Result<Http> {
        let dev = self.dev;
        let mut section = self.section("http")?;
        let port = if dev { 8080 } else { 443 };
        let listen = section.addresses("listen", &[local_or_any(dev, port)])?;
        let tls = section.tls()?;
        if let (Tls::Unset, Some(open)) = (&tls, listen.iter().find(|address| !address.ip().is_loopback())) {
            let reason = format!(
                "required on {open}: give {{ cert = \"…\", key = \"…\" }}, or \"off\" behind a proxy"
            );
            return Err(section.error("tls", reason));
        }
        let public_url = section.optional("public_url", |value| web_origin(value.string()?))?;
        section.end()?;
        Ok(Http { listen, tls: tls.files(), public_url })
    }

    fn auth(&mut self) -> Result<Auth> {
        let (dev, seed) = (self.dev, self.seed);
        let mut section = self.section("auth")?;
        let key = if let Some(path) = section.path("jwks_file")? {
            let jwks = String::from_utf8(section.read("jwks_file", &path)?);
            AuthKey::Jwks(jwks.map_err(|_| section.error("jwks_file", "is not text"))?)
        } else if let Some(path) = section.path("public_key_file")? {
            AuthKey::PublicKey(section.read("public_key_file", &path)?)
        } else if let Some((key, secret)) = section.secret("secret", "secret_file")? {
            if secret.0.len() < AUTH_SECRET_BYTES_MIN {
                return Err(section.error(key, format!("too short: at least {AUTH_SECRET_BYTES_MIN} bytes")));
            }
            AuthKey::Secret(secret)
        } else if dev {
            AuthKey::Secret(Secret(seed.to_vec()))
        } else {
            let reason = "required: or auth.secret_file, auth.public_key_file, auth.jwks_file";
            return Err(section.error("secret", reason));
        };
        let issuer = section.optional("issuer", |value| Ok(value.string()?.to_owned()))?;
        let audience = section.optional("audience", |value| Ok(value.string()?.to_owned()))?;
        section.end()?;
        let auth = Auth { key, issuer, audience };
        check_key(&auth)?;
        Ok(auth)
    }

    fn signaling(&mut self) -> Result<Signaling> {
        /// Smaller than any SDP a browser makes.
        const MESSAGE_BYTES_MIN: u64 = 16 * 1024;
        const MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;
        let mut section = self.section("signaling")?;
        let signaling = Signaling {
            resume_grace: section.duration("resume_grace", Duration::from_secs(10), Duration::ZERO)?,
            ring_timeout: section.duration(
                "ring_timeout",
                Duration::from_secs(45),
                Duration::from_secs(1),
            )?,
            heartbeat: section.duration("heartbeat", Duration::from_secs(15), Duration::from_secs(1))?,
            drain_timeout: section.duration("drain_timeout", Duration::ZERO, Duration::ZERO)?,
            max_message: section.get("max_message", 256 * 1024, |value| {
                parse_size(&value.quantity()?)
                    .filter(|size| (MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(size))
                    .map(|size| size as usize)
                    .ok_or_else(|| "expected a size from 16KiB to 16MiB, such as \"256KiB\"".into())
            })?,
        };
        section.end()?;
        Ok(signaling)
    }

    fn media(&mut self) -> Result<Media> {
        let (dev, cores) = (self.dev, self.cores);
        let mut section = self.section("media")?;
        let listen_ip = section.get("listen_ip", local_or_any(dev, 0).ip(), ip)?;
        let announced_ip = match section.optional("announced_ip", ip)? {
            Some(announced) if announced.is_unspecified() => {
                return Err(section.error("announced_ip", "expected an address that clients can reach"));
            }
            Some(announced) => announced,
            None if listen_ip.is_unspecified() => {
                return Err(
                    section.error("announced_ip", format!("required when media.listen_ip is {listen_ip}"))
                );
            }
            None => listen_ip,
        };
        let port = section.port("port", 44444)?;
        let workers = match section.get("workers", 0, |value| value.number(0, WORKERS_MAX))? {
            0 => cores.max(1),
            workers => workers as usize,
        };
        if usize::from(port) + workers - 1 > usize::from(u16::MAX) {
            return Err(section.error("port", format!("{workers} workers from port {port} pass 65535")));
        }
        let tcp = section.get("tcp", true, Value::flag)?;
        let max_bitrate = section.optional("max_bitrate", |value| {
            parse_bitrate(&value.quantity()?)
                .filter(|&rate| rate > 0)
                .ok_or_else(|| "expected a bit rate such as \"2.5Mbps\"".into())
        })?;
        let max_speakers = section.get("max_speakers", 0, |value| value.number(0, SPEAKERS_MAX))? as usize;
        let codecs = section.get("codecs", CODECS.map(str::to_owned).to_vec(), codecs)?;
        section.end()?;
        Ok(Media { listen_ip, announced_ip, port, workers, tcp, max_bitrate, max_speakers, codecs })
    }

    fn turn(&mut self, media: &Media, http: &Http) -> Result<Turn> {
        let (dev, seed, cores) = (self.dev, self.seed, self.cores);
        let mut section = self.section("turn")?;
        let enabled = section.get("enabled", true, Value::flag)?;
        let turnserver_conf =
            section.optional("turnserver_conf", |value| Ok(PathBuf::from(value.string()?)))?;
        if turnserver_conf.is_some() {
            section.only(&["secret", "secret_file"], "stands beside turn.turnserver_conf: say it there")?;
        }
        let listen = section.addresses("listen", &[local_or_any(dev, 3478)])?;
        let tls_listen = section.addresses("tls_listen", &[])?;
        let tls = match section.tls()? {
            Tls::Unset => http.tls.clone(),
            given => given.files(),
        };
        if tls.is_none() && !tls_listen.is_empty() {
            return Err(section.error("tls_listen", "needs a certificate: give turn.tls or http.tls"));
        }
        let realm = section.get("realm", "causeway".to_owned(), |value| realm(value.string()?))?;
        let workers = match section.get("workers", 0, |value| value.number(0, TURN_WORKERS_MAX))? {
            0 => cores.clamp(1, TURN_WORKERS_MAX as usize),
            workers => workers as usize,
        };
        let relay_ip = section.get("relay_ip", media.listen_ip, ip)?;
        let external_ip = section.optional("external_ip", ip)?;
        let external_ip = external_ip
            .or_else(|| relay_ip.is_unspecified().then_some(media.announced_ip))
            .filter(|external| *external != relay_ip);
        let min_port = section.port("min_port", 49152)?;
        let max_port = section.port("max_port", 65535)?;
        if min_port > max_port {
            return Err(section.error("max_port", format!("{max_port} is below turn.min_port, {min_port}")));
        }
        let secret = match section.secret("secret", "secret_file")? {
            Some((_, secret)) => secret,
            // The credentials are minted and checked by this one process: a secret of its own lasts as long as they do.
            None => derive(&seed, b"turn"),
        };
        let turn = Turn {
            enabled,
            turnserver_conf,
            listen,
            tls_listen,
            tls,
            workers,
            realm,
            relay_ip,
            external_ip,
            min_port,
            max_port,
            secret,
            users: section.users()?,
            denied_peers: section.networks("denied_peers")?,
            allowed_peers: section.networks("allowed_peers")?,
            user_quota: section.get("user_quota", 0, |value| value.number(0, u64::from(u32::MAX)))? as usize,
            total_quota: section.get("total_quota", 0, |value| value.number(0, u64::from(u32::MAX)))?
                as usize,
        };
        section.end()?;
        Ok(turn)
    }

    fn store(&mut self) -> Result<Store> {
        let state_dir = Path::new(if self.dev { DEV_STATE_DIR } else { STATE_DIR });
        let mut section = self.section("store")?;
        let (key, url) = match section.secret("url", "url_file")? {
            Some(given) => given,
            None => {
                ("url", Secret(format!("sqlite://{}", state_dir.join("causeway.db").display()).into_bytes()))
            }
        };
        let text = std::str::from_utf8(&url.0).unwrap_or_default();
        if !["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(section.error(key, "expected sqlite://… or postgres://…"));
        }
        let beside = sqlite_dir(text).unwrap_or(state_dir).to_owned();
        let spill_dir = section.path("spill_dir")?.unwrap_or(beside);
        section.end()?;
        Ok(Store { url, spill_dir })
    }

    fn limits(&mut self) -> Result<Limits> {
        let mut section = self.section("limits")?;
        let mut limit = |key, default| section.get(key, default, |value| value.number(1, 1_000_000));
        let limits = Limits {
            connections_per_ip: limit("connections_per_ip", 64)? as usize,
            joins_per_minute_per_user: limit("joins_per_minute_per_user", 60)? as u32,
            max_peers_per_room: limit("max_peers_per_room", 500)? as usize,
        };
        section.end()?;
        Ok(limits)
    }

    fn log(&mut self) -> Result<Log> {
        let mut section = self.section("log")?;
        let level = section.get("level", "info".to_owned(), |value| Ok(value.string()?.to_owned()))?;
        let json = section.get("format", false, |value| match value.string()? {
            "text" => Ok(false),
            "json" => Ok(true),
            _ => Err("expected \"text\" or \"json\"".into()),
        })?;
        section.end()?;
        Ok(Log { level, json })
    }

    fn metrics(&mut self) -> Result<Metrics> {
        let mut section = self.section("metrics")?;
        let listen = section.optional("listen", |value| parsed(value, "an address and port"))?;
        section.end()?;
        Ok(Metrics { listen })
    }
}

/// One section's settings that have not been asked for yet.
struct Section<'a> {
    name: &'static str,
    keys: Table,
    read_file: ReadFile<'a>,
}

impl Section<'_> {
    fn error(&self, key: &str, reason: impl Display) -> ConfigError {
        ConfigError::new(format!("{}.{key}", self.name), reason)
    }

    /// Refuses what is left over.
    fn end(self) -> Result<()> {
        match self.keys.keys().next() {
            Some(key) => Err(self.error(key, "unknown key")),
            None => Ok(()),
        }
    }

    /// Only these keys are left.
    fn only(&self, allowed: &[&str], reason: &str) -> Result<()> {
        match self.keys.keys().find(|key| !allowed.contains(&key.as_str())) {
            Some(key) => Err(self.error(key, reason)),
            None => Ok(()),
        }
    }

    fn optional<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&Value) -> std::result::Result<T, String>,
    ) -> Result<Option<T>> {
        match self.keys.remove(key) {
            None => Ok(None),
            Some(Node::Table(_)) => Err(self.error(key, "expected a value, found a table")),
            Some(Node::Leaf(value)) => parse(&value).map(Some).map_err(|reason| self.error(key, reason)),
        }
    }

    fn get<T>(
        &mut self,
        key: &str,
        default: T,
        parse: impl FnOnce(&Value) -> std::result::Result<T, String>,
    ) -> Result<T> {
        Ok(self.optional(key, parse)?.unwrap_or(default))
    }

    fn port(&mut self, key: &str, default: u16) -> Result<u16> {
        self.get(key, default, |value| value.number(1, u64::from(u16::MAX)).map(|port| port as u16))
    }

    fn duration(&mut self, key: &str, default: Duration, min: Duration) -> Result<Duration> {
        self.get(key, default, |value| {
            let duration = parse_duration(&value.quantity()?).ok_or("expected a duration such as \"10s\"")?;
            if duration < min { Err(format!("at least {} s", min.as_secs())) } else { Ok(duration) }
        })
    }

    fn addresses(&mut self, key: &str, default: &[SocketAddr]) -> Result<Vec<SocketAddr>> {
        self.get(key, default.to_vec(), |value| {
            let list = value.list()?;
            if list.is_empty() {
                return Err("expected at least one address and port".into());
            }
            list.iter().map(|item| one(item, "an address and port")).collect()
        })
    }

    fn networks(&mut self, key: &str) -> Result<Vec<ipnet::IpNet>> {
        self.get(key, Vec::new(), |value| value.list()?.iter().map(|item| network(item)).collect())
    }

    fn path(&mut self, key: &str) -> Result<Option<PathBuf>> {
        self.optional(key, |value| match value.string()? {
            "" => Err("expected a path".into()),
            path => Ok(PathBuf::from(path)),
        })
    }

    fn read(&self, key: &str, path: &Path) -> Result<Vec<u8>> {
        let bytes = (self.read_file)(path)
            .map_err(|error| self.error(key, format!("cannot read {}: {error}", path.display())))?;
        if bytes.len() > NAMED_FILE_BYTES_MAX {
            return Err(self.error(key, format!("{} is larger than 1 MiB", path.display())));
        }
        Ok(bytes)
    }

    /// A secret given in place or in a file, and the key that gave it. A file's closing line break is not part of it.
    fn secret<'k>(&mut self, key: &'k str, file_key: &'k str) -> Result<Option<(&'k str, Secret)>> {
        let given = if let Some(path) = self.path(file_key)? {
            let bytes = self.read(file_key, &path)?;
            let end = bytes.iter().rposition(|b| !b"\r\n".contains(b)).map_or(0, |last| last + 1);
            Some((file_key, Secret(bytes[..end].to_vec())))
        } else {
            let text = self.optional(key, |value| Ok(value.string()?.as_bytes().to_vec()))?;
            text.map(|bytes| (key, Secret(bytes)))
        };
        match given {
            Some((key, secret)) if secret.0.is_empty() => Err(self.error(key, "is empty")),
            given => Ok(given),
        }
    }

    fn users(&mut self) -> Result<BTreeMap<String, Secret>> {
        let users = match self.keys.remove("users") {
            None => return Ok(BTreeMap::new()),
            Some(Node::Table(users)) => users,
            Some(Node::Leaf(_)) => return Err(self.error("users", "expected a table of names and passwords")),
        };
        let password = |(name, node): (String, Node)| {
            let wrong = || self.error(&format!("users.{name}"), "expected a password in quotes");
            let Node::Leaf(value) = node else { return Err(wrong()) };
            let password = value.string().map_err(|_| wrong())?.as_bytes().to_vec();
            if password.is_empty() { Err(wrong()) } else { Ok((name, Secret(password))) }
        };
        users.into_iter().map(password).collect()
    }

    fn tls(&mut self) -> Result<Tls> {
        let mut table = match self.keys.remove("tls") {
            None => return Ok(Tls::Unset),
            Some(Node::Leaf(value)) if value.string() == Ok("off") => return Ok(Tls::Off),
            Some(Node::Leaf(_)) => {
                return Err(self.error("tls", "expected { cert = \"…\", key = \"…\" } or \"off\""));
            }
            Some(Node::Table(table)) => table,
        };
        let mut file = |key: &str| {
            let setting = format!("tls.{key}");
            let Some(Node::Leaf(value)) = table.remove(key) else {
                return Err(self.error(&setting, "required: a PEM file"));
            };
            let path = PathBuf::from(value.string().map_err(|reason| self.error(&setting, reason))?);
            self.read(&setting, &path)?;
            Ok(path)
        };
        let files = TlsFiles { cert: file("cert")?, key: file("key")? };
        match table.keys().next() {
            Some(key) => Err(self.error(&format!("tls.{key}"), "unknown key")),
            None => Ok(Tls::Files(files)),
        }
    }
}

/// What `http.tls` says.
enum Tls {
    Unset,
    Off,
    Files(TlsFiles),
}

impl Tls {
    fn files(self) -> Option<TlsFiles> {
        match self {
            Self::Files(files) => Some(files),
            Self::Unset | Self::Off => None,
        }
    }
}

fn local_or_any(dev: bool, port: u16) -> SocketAddr {
    let ip = if dev { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    SocketAddr::new(ip.into(), port)
}

fn one<T: FromStr>(text: &str, what: &str) -> std::result::Result<T, String> {
    text.trim().parse().map_err(|_| format!("expected {what}, found {text:?}"))
}

fn parsed<T: FromStr>(value: &Value, what: &str) -> std::result::Result<T, String> {
    one(value.string()?, what)
}

fn ip(value: &Value) -> std::result::Result<IpAddr, String> {
    parsed(value, "an IP address")
}

/// A network in CIDR notation, or one address.
fn network(text: &str) -> std::result::Result<ipnet::IpNet, String> {
    text.parse::<IpAddr>().map(ipnet::IpNet::from).or_else(|_| one(text, "a network such as 10.0.0.0/8"))
}

fn codecs(value: &Value) -> std::result::Result<Vec<String>, String> {
    let mut codecs = Vec::new();
    for wanted in value.list()? {
        let Some(codec) = CODECS.iter().find(|codec| codec.eq_ignore_ascii_case(&wanted)) else {
            return Err(format!("unknown codec {wanted:?}: expected some of {}", CODECS.join(", ")));
        };
        if codecs.iter().any(|present| present == codec) {
            return Err(format!("{codec} is named twice"));
        }
        codecs.push((*codec).to_owned());
    }
    if codecs.is_empty() { Err("expected at least one codec".into()) } else { Ok(codecs) }
}

/// REALM is a quoted-string of fewer than 128 characters (RFC 8489 §14.9).
fn realm(text: &str) -> std::result::Result<String, String> {
    let fits = (1..128).contains(&text.chars().count())
        && !text.contains(['"', '\\'])
        && !text.contains(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err("expected 1 to 127 characters without quotes".into()) }
}

fn web_origin(text: &str) -> std::result::Result<String, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("expected a URL such as \"https://call.example.org\"".into()),
    }
}

/// The directory of an SQLite file; `None` for PostgreSQL and for a database in memory.
fn sqlite_dir(url: &str) -> Option<&Path> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path).split('?').next()?;
    if path.is_empty() || path.starts_with(":memory:") {
        return None;
    }
    Path::new(path).parent().map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir })
}

/// A second secret out of the first.
fn derive(seed: &[u8; 32], purpose: &[u8]) -> Secret {
    Secret(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, seed), purpose).as_ref().to_vec())
}

/// Refuses a key that could verify nothing.
fn check_key(auth: &Auth) -> Result<()> {
    let setting = match auth.key {
        AuthKey::Secret(_) => "auth.secret",
        AuthKey::PublicKey(_) => "auth.public_key_file",
        AuthKey::Jwks(_) => "auth.jwks_file",
    };
    crate::token::TokenVerifier::new(auth).map(drop).map_err(|error| ConfigError::new(setting, error))
}

/// Anybody may mint a token in development mode, so nobody else may reach it.
fn loopback_only(config: &Config) -> Result<()> {
    let http = config.http.listen.iter().map(|address| ("http.listen", address.ip()));
    let turn = config.turn.listen.iter().map(|address| ("turn.listen", address.ip()));
    let metrics = config.metrics.listen.iter().map(|address| ("metrics.listen", address.ip()));
    let media = [("media.listen_ip", config.media.listen_ip), ("turn.relay_ip", config.turn.relay_ip)];
    match http.chain(turn).chain(metrics).chain(media).find(|(_, ip)| !ip.is_loopback()) {
        Some((setting, ip)) => Err(ConfigError::new(
            setting,
            format!("{ip} is no loopback address, which development mode requires"),
        )),
        None => Ok(()),
    }
}
