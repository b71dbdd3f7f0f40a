//! Every key that coturn knows, and what becomes of it here. Reading this table is reading the documentation.
//!
//! `docs/migrating-from-coturn.md` says the same for people. Names, letters and defaults are coturn 4.6's and 4.17's.

use super::draft::Draft;
use super::process::LogTo;
use super::values::{external, ip, ip_and_port, number, peers, port, seconds, user};

/// Whether a key is followed by a value on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Value,
    /// Only with `=`.
    Maybe,
}

/// What becomes of a key.
#[derive(Clone, Copy)]
pub(super) enum Fate {
    /// Something that has a value.
    Set(fn(&mut Draft, &str) -> Result<(), String>),
    /// Something that is on or off.
    Flag(fn(&mut Draft, bool)),
    /// Already so, or without meaning here.
    Accept(&'static str),
    /// It runs without, and says so.
    Warn(&'static str),
    /// Going on in silence would be a hole or an outage.
    Refuse(&'static str),
}

/// A row of the table.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    short: Option<char>,
    pub(super) takes: Takes,
    /// Its value is never shown.
    pub(super) is_secret: bool,
    pub(super) fate: Fate,
}

impl Key {
    const fn row(name: &'static str, takes: Takes, fate: Fate) -> Self {
        Self { name, short: None, takes, is_secret: false, fate }
    }

    const fn value(name: &'static str, set: fn(&mut Draft, &str) -> Result<(), String>) -> Self {
        Self::row(name, Takes::Value, Fate::Set(set))
    }

    const fn flag(name: &'static str, set: fn(&mut Draft, bool)) -> Self {
        Self::row(name, Takes::Nothing, Fate::Flag(set))
    }

    const fn accept(name: &'static str, takes: Takes, why: &'static str) -> Self {
        Self::row(name, takes, Fate::Accept(why))
    }

    const fn warn(name: &'static str, takes: Takes, why: &'static str) -> Self {
        Self::row(name, takes, Fate::Warn(why))
    }

    const fn refuse(name: &'static str, takes: Takes, why: &'static str) -> Self {
        Self::row(name, takes, Fate::Refuse(why))
    }

    const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    const fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }
}

/// The row of a key, by its long name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The row of a key, by its letter.
pub(super) fn find_short(letter: char) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.short == Some(letter))
}

/// Every option as it is written, and what becomes of it in a few words: the help text.
pub fn options() -> impl Iterator<Item = (String, &'static str)> {
    KEYS.iter().map(|key| {
        let short = key.short.map_or(String::new(), |letter| format!("-{letter}, "));
        let value = match key.takes {
            Takes::Nothing => "",
            Takes::Value => "=VALUE",
            Takes::Maybe => "[=VALUE]",
        };
        let fate = match key.fate {
            Fate::Set(_) | Fate::Flag(_) => "",
            Fate::Accept(_) => "nothing to do",
            Fate::Warn(_) => "not followed, with a warning",
            Fate::Refuse(_) => "refused",
        };
        (format!("{short}--{}{value}", key.name), fate)
    })
}

const DATABASE: &str =
    "user databases are not read: give users with user=, or a secret with static-auth-secret=";
const SAFE_ALREADY: &str = "always so here";
const NO_OPENSSL: &str = "TLS 1.2 and 1.3 with forward secrecy, nothing older, by rustls";
const NO_CLI: &str = "there is no command-line or web interface: /metrics and signals instead";

#[rustfmt::skip] // a table
#[allow(clippy::unit_arg)] // a row is a line
pub(super) const KEYS: &[Key] = &[
    // Where clients come in.
    Key::value("listening-ip", |d, v| Ok(d.listening_ips.push(ip(v)?))).short('L'),
    Key::value("listening-port", |d, v| Ok(d.listening_port = port(v)?)).short('p'),
    Key::value("tls-listening-port", |d, v| Ok(d.tls_listening_port = port(v)?)),
    Key::value("aux-server", |d, v| Ok(d.aux_servers.push(ip_and_port(v, d.listening_port)?))),
    Key::flag("no-udp", |d, on| d.transports.udp = !on),
    Key::flag("no-tcp", |d, on| d.transports.tcp = !on),
    Key::flag("no-tls", |d, on| d.transports.tls = !on),
    Key::flag("no-dtls", |d, on| d.transports.dtls = !on),
    Key::warn("listening-device", Takes::Value, "sockets are bound to addresses: use listening-ip").short('d'),
    Key::refuse("tcp-proxy-port", Takes::Value, "the PROXY protocol is not read: clients would all seem to be the proxy"),
    Key::accept("udp-self-balance", Takes::Nothing, "every thread has its own listener, the kernel balances"),
    Key::accept("udp-recvmmsg", Takes::Maybe, SAFE_ALREADY),
    Key::accept("udp-gso", Takes::Maybe, SAFE_ALREADY),
    Key::accept("multiplex-peer", Takes::Maybe, "every allocation has its own port, and trains are sent as one all the same"),
    Key::accept("multiplex-peer-port", Takes::Value, "every allocation has its own port"),
    Key::value("relay-threads", |d, v| Ok(d.workers = number(v)?)).short('m'),
    Key::value("sock-buf-size", |d, v| Ok(d.socket_buffer_bytes = number(v)?)),

    // Where packets leave.
    Key::value("relay-ip", |d, v| Ok(d.relay_ips.push(ip(v)?))).short('E'),
    Key::value("external-ip", |d, v| Ok(d.external_ips.push(external(v)?))).short('X'),
    Key::warn("relay-device", Takes::Value, "sockets are bound to addresses: use relay-ip").short('i'),
    Key::value("min-port", |d, v| Ok(d.min_port = port(v)?)),
    Key::value("max-port", |d, v| Ok(d.max_port = port(v)?)),
    Key::flag("no-tcp-relay", |d, on| d.tcp_relay = !on),
    Key::refuse("no-udp-relay", Takes::Nothing, "UDP is always relayed"),
    Key::flag("keep-address-family", |d, on| d.keep_address_family = on).short('K'),
    Key::value("allocation-default-address-family", |d, v| d.default_family(v)).short('A'),
    Key::refuse("server-relay", Takes::Nothing, "it would relay for anybody"),

    // Who may relay.
    Key::flag("lt-cred-mech", |d, on| d.long_term = on).short('a'),
    Key::flag("use-auth-secret", |d, on| d.use_auth_secret = on),
    Key::value("static-auth-secret", |d, v| d.secret(v)).secret(),
    Key::value("rest-api-separator", |d, v| d.separator(v)).short('C'),
    Key::value("user", |d, v| Ok(d.users.push(user(v)?))).short('u').secret(),
    Key::value("realm", |d, v| Ok(d.realm = Some(v.to_owned()))).short('r'),
    Key::value("server-name", |d, v| Ok(d.server_name = Some(v.to_owned()))),
    Key::flag("no-auth", |d, on| d.anonymous = on).short('z'),
    Key::refuse("oauth", Takes::Nothing, "RFC 7635 is not built: clients would be turned away"),
    Key::warn("userdb", Takes::Value, DATABASE).short('b'),
    Key::warn("db", Takes::Value, DATABASE),
    Key::refuse("psql-userdb", Takes::Value, DATABASE).short('e').secret(),
    Key::refuse("sql-userdb", Takes::Value, DATABASE).secret(),
    Key::refuse("mysql-userdb", Takes::Value, DATABASE).short('M').secret(),
    Key::refuse("mongo-userdb", Takes::Value, DATABASE).short('J').secret(),
    Key::refuse("redis-userdb", Takes::Value, DATABASE).short('N').secret(),
    Key::warn("redis-statsdb", Takes::Value, "statistics are at /metrics").short('O').secret(),
    Key::warn("secret-key-file", Takes::Value, "it belongs to the MySQL database").secret(),
    Key::warn("check-origin-consistency", Takes::Nothing, "the ORIGIN attribute never became a standard and is not looked at"),
    Key::accept("no-auth-pings", Takes::Nothing, "there is no database to ping"),
    Key::accept("no-dynamic-ip-list", Takes::Nothing, "there is no database to read lists from"),
    Key::accept("no-dynamic-realms", Takes::Nothing, "there is no database to read realms from"),
    Key::flag("secure-stun", |d, on| d.services.secure_stun = on),
    Key::flag("stun-only", |d, on| d.services.turn = !on).short('S'),
    Key::flag("no-stun", |d, on| d.services.stun = !on),

    // Whom it may reach.
    Key::value("denied-peer-ip", |d, v| Ok(d.denied_peers.extend(peers(v)?))),
    Key::value("allowed-peer-ip", |d, v| Ok(d.allowed_peers.extend(peers(v)?))),
    Key::flag("allow-loopback-peers", |d, on| d.allow_loopback_peers = on),
    Key::accept("no-loopback-peers", Takes::Nothing, SAFE_ALREADY),
    Key::accept("no-multicast-peers", Takes::Nothing, SAFE_ALREADY),

    // How much, and for how long.
    Key::value("user-quota", |d, v| Ok(d.user_quota = number(v)?)).short('q'),
    Key::value("total-quota", |d, v| Ok(d.total_quota = number(v)?)).short('Q'),
    Key::value("max-bps", |d, v| Ok(d.max_bps = number(v)?)).short('s'),
    Key::value("bps-capacity", |d, v| Ok(d.bps_capacity = number(v)?)).short('B'),
    Key::value("max-allocate-lifetime", |d, v| Ok(d.lifetimes.allocation_max = seconds(v)?)),
    Key::value("permission-lifetime", |d, v| Ok(d.lifetimes.permission = seconds(v)?)),
    Key::value("channel-lifetime", |d, v| Ok(d.lifetimes.channel = seconds(v)?)),
    Key::row("stale-nonce", Takes::Maybe, Fate::Set(|d, v| d.stale_nonce(v))),
    Key::warn("max-allocate-timeout", Takes::Value, "connections without an allocation are closed after a fixed time"),
    Key::value("unauthorized-ratelimit", |d, v| Ok(d.stranger_answers = Some(number(v)?))),

    // Certificates.
    Key::value("cert", |d, v| Ok(d.cert = Some(v.into()))),
    Key::value("pkey", |d, v| Ok(d.key = Some(v.into()))),
    Key::refuse("pkey-pwd", Takes::Value, "encrypted keys are not read: decrypt it (openssl pkey -in KEY -out PLAIN), readable for this service alone").secret(),
    Key::value("cipher-list", |d, v| Ok(d.cipher_list = Some(v.to_owned()))),
    Key::warn("CA-file", Takes::Value, "client certificates are not asked for"),
    Key::accept("no-tlsv1", Takes::Nothing, NO_OPENSSL),
    Key::accept("no-tlsv1_1", Takes::Nothing, NO_OPENSSL),
    Key::accept("no-sslv2", Takes::Nothing, NO_OPENSSL),
    Key::accept("no-sslv3", Takes::Nothing, NO_OPENSSL),
    Key::warn("no-tlsv1_2", Takes::Nothing, "TLS 1.2 and DTLS 1.2 stay: most clients have nothing newer"),
    Key::warn("tlsv1", Takes::Nothing, NO_OPENSSL),
    Key::warn("tlsv1_1", Takes::Nothing, NO_OPENSSL),
    Key::accept("dh-file", Takes::Value, "finite-field Diffie-Hellman is not offered"),
    Key::accept("dh566", Takes::Nothing, "finite-field Diffie-Hellman is not offered"),
    Key::accept("dh1066", Takes::Nothing, "finite-field Diffie-Hellman is not offered"),
    Key::accept("dh2066", Takes::Nothing, "finite-field Diffie-Hellman is not offered"),
    Key::accept("ec-curve-name", Takes::Value, "the usual curves are offered"),
    Key::warn("raw-public-keys", Takes::Maybe, "certificates are used"),

    // What is said on the wire.
    Key::flag("fingerprint", |d, on| d.fingerprint = on).short('f'),
    Key::accept("no-software-attribute", Takes::Nothing, SAFE_ALREADY),
    Key::accept("prod", Takes::Nothing, SAFE_ALREADY),
    Key::warn("software-attribute", Takes::Nothing, "SOFTWARE is not sent"),
    Key::accept("no-stun-backward-compatibility", Takes::Nothing, SAFE_ALREADY),
    Key::warn("stun-backward-compatibility", Takes::Nothing, "RFC 3489 is not answered"),
    Key::accept("response-origin-only-with-rfc5780", Takes::Nothing, SAFE_ALREADY),
    Key::flag("no-rfc5780", |d, on| d.rfc5780 = !on),
    Key::flag("rfc5780", |d, on| d.rfc5780 = on),
    Key::value("alt-listening-port", |d, v| Ok(d.alt_listening_port = Some(number(v)?).filter(|port| *port > 0))),
    Key::warn("alt-tls-listening-port", Takes::Value, "NAT behaviour discovery is about UDP"),
    Key::value("alternate-server", |d, v| Ok(d.alternate_servers.push(ip_and_port(v, 3478)?))),
    Key::warn("tls-alternate-server", Takes::Value, "alternate-server is sent on every transport"),
    Key::warn("mobility", Takes::Nothing, "RFC 8016 is not built: clients that move allocate again"),
    Key::warn("acme-redirect", Takes::Value, "HTTP is not answered on these ports"),

    // The process.
    Key::value("log-file", |d, v| Ok(d.log = LogTo::named(v))).short('l'),
    Key::flag("no-stdout-log", |d, on| d.no_stdout_log = on),
    Key::flag("syslog", |d, on| d.syslog = on),
    Key::warn("syslog-facility", Takes::Value, "the facility is daemon"),
    Key::flag("verbose", |d, on| d.verbose = on).short('v'),
    Key::flag("Verbose", |d, on| d.very_verbose = on).short('V'),
    Key::accept("simple-log", Takes::Nothing, "the log file has the name that it was given; rotate it, then SIGHUP"),
    Key::accept("new-log-timestamp", Takes::Nothing, SAFE_ALREADY),
    Key::accept("new-log-timestamp-format", Takes::Value, "timestamps are RFC 3339"),
    Key::accept("log-binding", Takes::Nothing, "Binding requests are counted at /metrics"),
    Key::accept("no-log-binding", Takes::Nothing, SAFE_ALREADY),
    Key::value("pidfile", |d, v| Ok(d.pid_file = (!v.is_empty()).then(|| v.into()))),
    Key::flag("daemon", |d, on| d.daemon = on).short('o'),
    Key::value("proc-user", |d, v| Ok(d.run_as_user = Some(v.to_owned()))),
    Key::value("proc-group", |d, v| Ok(d.run_as_group = Some(v.to_owned()))),
    Key::value("drain-min-allocations", |d, v| Ok(d.drain_min_allocations = number(v)?)),
    Key::flag("prometheus", |d, on| d.prometheus = on),
    Key::value("prometheus-port", |d, v| Ok(d.prometheus_port = port(v)?)),
    Key::value("prometheus-address", |d, v| Ok(d.prometheus_address = Some(ip(v)?))),
    Key::warn("prometheus-path", Takes::Value, "the path is /metrics"),
    Key::warn("prometheus-username-labels", Takes::Nothing, "metrics never name users"),
    Key::warn("cli", Takes::Nothing, NO_CLI),
    Key::accept("no-cli", Takes::Nothing, SAFE_ALREADY),
    Key::warn("cli-ip", Takes::Value, NO_CLI),
    Key::warn("cli-port", Takes::Value, NO_CLI),
    Key::warn("cli-password", Takes::Value, NO_CLI).secret(),
    Key::warn("cli-max-output-sessions", Takes::Value, NO_CLI),
    Key::warn("web-admin", Takes::Nothing, NO_CLI),
    Key::warn("web-admin-ip", Takes::Value, NO_CLI),
    Key::warn("web-admin-port", Takes::Value, NO_CLI),
    Key::warn("web-admin-listen-on-workers", Takes::Nothing, NO_CLI),
    Key::accept("no-web-admin", Takes::Nothing, SAFE_ALREADY),
    Key::accept("ne", Takes::Value, "there is one network engine"),
];
