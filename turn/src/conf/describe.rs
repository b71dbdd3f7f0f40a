//! What a configuration came to, for `causeway check-config`.

use std::fmt::Display;
use std::time::Duration;

use super::{Conf, LogTo};
use crate::settings::{Discovery, Transports};

impl Conf {
    /// A row for each thing that was decided, given or by default. Fit to be printed: no secret is in it.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let (relay, process) = (&self.settings.relay, &self.process);
        let mut rows = Vec::new();
        let mut row = |name, value: String| rows.push((name, value));
        row("listens", list(&self.settings.listen));
        row("listens for TLS and DTLS", list(&self.settings.tls_listen));
        let Transports { udp, tcp, tls, dtls } = self.settings.transports;
        let has_certificate = self.settings.tls.is_some();
        let over =
            [("UDP", udp), ("TCP", tcp), ("TLS", tls && has_certificate), ("DTLS", dtls && has_certificate)];
        row("clients come over", list(over.iter().filter(|(_, on)| *on).map(|(name, _)| name)));
        let workers = self.settings.workers;
        row("workers", if workers == 0 { "one for each core".into() } else { workers.to_string() });
        row("realm", relay.realm.clone());
        let ips = relay.relay_ips.iter().map(|ip| match ip.bound == ip.shown {
            true => ip.bound.to_string(),
            false => format!("{} seen as {}", ip.bound, ip.shown),
        });
        row("relays at", list(ips));
        row("relay ports", format!("{} to {}", relay.ports.start(), relay.ports.end()));
        row("relays TCP", yes(relay.tcp_relay));
        let credentials = &relay.credentials;
        row("shared secrets", credentials.secrets.len().to_string());
        row("static users", list(credentials.users.keys()));
        row("anonymous", yes(credentials.anonymous));
        row("answers STUN", yes(relay.services.stun));
        row("answers STUN only with a password", yes(relay.services.secure_stun));
        row("answers TURN", yes(relay.services.turn));
        row("NAT behaviour discovery", list(relay.discovery.iter().flat_map(Discovery::addresses)));
        row("allowed peers, beside public ones", list(&relay.allowed_peers));
        row("denied peers, beside private ones", list(&relay.denied_peers));
        row("allocations per user", limit(relay.user_quota as u64));
        row("allocations in all", limit(relay.total_quota as u64));
        row("bytes per second of an allocation", limit(relay.max_bps));
        row("bytes per second in all", limit(relay.bps_capacity));
        row("longest allocation", seconds(relay.lifetimes.allocation_max));
        row("permissions last", seconds(relay.lifetimes.permission));
        row("channels last", seconds(relay.lifetimes.channel));
        row("nonces last", relay.lifetimes.nonce.map_or("as long as the server".into(), seconds));
        row("sends clients on to", list(&relay.alternate_servers));
        row(
            "log",
            match &process.log {
                LogTo::Stdout => "standard output".into(),
                LogTo::File(path) => path.display().to_string(),
                LogTo::Syslog => "syslog".into(),
                LogTo::Nowhere => "none".into(),
            },
        );
        row("log level", process.log_level.to_owned());
        row("pid file", process.pid_file.as_ref().map_or("none".into(), |path| path.display().to_string()));
        row("metrics", process.metrics.map_or("none".into(), |address| format!("http://{address}/metrics")));
        rows
    }
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

fn yes(on: bool) -> String {
    if on { "yes" } else { "no" }.into()
}

fn limit(number: u64) -> String {
    if number == 0 { "unlimited".into() } else { number.to_string() }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}
