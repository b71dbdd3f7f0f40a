//! What has been said so far, key by key, and how it becomes settings once all is said.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::config::{Secret, TlsFiles};
use ipnet::IpNet;

use super::process::{LogTo, Process};
use super::syntax::Place;
use super::values::seconds;
use super::{Environment, Note, Outcome, ciphers};
use crate::auth::Credentials;
use crate::relay::RelayIp;
use crate::settings::{
    Discovery, Lifetimes, RELAY_BUFFER_BYTES, RelayConfig, Services, Settings, Transports,
};

/// coturn's own.
const DEFAULT_LISTENING_PORT: u16 = 3478;
const DEFAULT_TLS_PORT: u16 = 5349;
const DEFAULT_PROMETHEUS_PORT: u16 = 9641;
const STALE_NONCE: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Draft {
    pub(super) listening_ips: Vec<IpAddr>,
    pub(super) listening_port: u16,
    pub(super) tls_listening_port: u16,
    pub(super) aux_servers: Vec<SocketAddr>,
    pub(super) transports: Transports,
    pub(super) socket_buffer_bytes: usize,
    pub(super) relay_ips: Vec<IpAddr>,
    pub(super) external_ips: Vec<(IpAddr, Option<IpAddr>)>,
    /// 0 is one for each core.
    pub(super) workers: usize,
    pub(super) min_port: u16,
    pub(super) max_port: u16,
    pub(super) tcp_relay: bool,
    pub(super) keep_address_family: bool,
    pub(super) long_term: bool,
    pub(super) use_auth_secret: bool,
    pub(super) secrets: Vec<Secret>,
    pub(super) separator: char,
    pub(super) users: Vec<(String, String)>,
    pub(super) realm: Option<String>,
    pub(super) server_name: Option<String>,
    pub(super) anonymous: bool,
    pub(super) denied_peers: Vec<IpNet>,
    pub(super) allowed_peers: Vec<IpNet>,
    pub(super) allow_loopback_peers: bool,
    pub(super) user_quota: usize,
    pub(super) total_quota: usize,
    pub(super) max_bps: u64,
    pub(super) bps_capacity: u64,
    pub(super) lifetimes: Lifetimes,
    pub(super) services: Services,
    pub(super) stranger_answers: Option<u32>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) cipher_list: Option<String>,
    pub(super) fingerprint: bool,
    pub(super) rfc5780: bool,
    pub(super) alt_listening_port: Option<u16>,
    pub(super) alternate_servers: Vec<SocketAddr>,
    pub(super) log: LogTo,
    pub(super) no_stdout_log: bool,
    pub(super) syslog: bool,
    pub(super) verbose: bool,
    pub(super) very_verbose: bool,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) daemon: bool,
    pub(super) run_as_user: Option<String>,
    pub(super) run_as_group: Option<String>,
    pub(super) drain_min_allocations: usize,
    pub(super) prometheus: bool,
    pub(super) prometheus_port: u16,
    pub(super) prometheus_address: Option<IpAddr>,
}

impl Default for Draft {
    fn default() -> Self {
        let relay = RelayConfig::default();
        Self {
            listening_ips: Vec::new(),
            listening_port: DEFAULT_LISTENING_PORT,
            tls_listening_port: DEFAULT_TLS_PORT,
            aux_servers: Vec::new(),
            transports: Transports::default(),
            socket_buffer_bytes: RELAY_BUFFER_BYTES,
            relay_ips: Vec::new(),
            external_ips: Vec::new(),
            workers: 0,
            min_port: *relay.ports.start(),
            max_port: *relay.ports.end(),
            tcp_relay: true,
            keep_address_family: false,
            long_term: false,
            use_auth_secret: false,
            secrets: Vec::new(),
            separator: ':',
            users: Vec::new(),
            realm: None,
            server_name: None,
            anonymous: false,
            denied_peers: Vec::new(),
            allowed_peers: Vec::new(),
            allow_loopback_peers: false,
            user_quota: 0,
            total_quota: 0,
            max_bps: 0,
            bps_capacity: 0,
            lifetimes: relay.lifetimes,
            services: relay.services,
            stranger_answers: None,
            cert: None,
            key: None,
            cipher_list: None,
            fingerprint: false,
            rfc5780: false,
            alt_listening_port: None,
            alternate_servers: Vec::new(),
            log: LogTo::default(),
            no_stdout_log: false,
            syslog: false,
            verbose: false,
            very_verbose: false,
            pid_file: None,
            daemon: false,
            run_as_user: None,
            run_as_group: None,
            drain_min_allocations: 0,
            prometheus: false,
            prometheus_port: DEFAULT_PROMETHEUS_PORT,
            prometheus_address: None,
        }
    }
}

impl Draft {
    pub(super) fn secret(&mut self, value: &str) -> Result<(), String> {
        if value.is_empty() {
            return Err("expected a secret".into());
        }
        self.secrets.push(Secret(value.as_bytes().to_vec()));
        Ok(())
    }

    pub(super) fn separator(&mut self, value: &str) -> Result<(), String> {
        let mut letters = value.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) if !letter.is_ascii_digit() => self.separator = letter,
            _ => return Err("expected one character that is no digit".into()),
        }
        Ok(())
    }

    /// Alone it is coturn's ten minutes, 0 is for ever.
    pub(super) fn stale_nonce(&mut self, value: &str) -> Result<(), String> {
        self.lifetimes.nonce = match value {
            "" => Some(STALE_NONCE),
            value => Some(seconds(value)?).filter(|lifetime| !lifetime.is_zero()),
        };
        Ok(())
    }

    pub(super) fn default_family(&mut self, value: &str) -> Result<(), String> {
        match value {
            "ipv4" => self.keep_address_family = false,
            "keep" => self.keep_address_family = true,
            "ipv6" => {
                return Err("a client that does not ask gets IPv4, or with \"keep\" its own family".into());
            }
            _ => return Err("expected ipv4 or keep".into()),
        }
        Ok(())
    }

    /// All is said: the settings, and what only shows when keys are seen together.
    pub(super) fn finish(self, environment: &Environment<'_>, notes: &mut Vec<Note>) -> (Settings, Process) {
        let mut tell = |key: &str, outcome| {
            notes.push(Note { place: Place::Whole, key: key.to_owned(), value: None, outcome });
        };
        self.check_credentials(&mut tell);
        if self.min_port > self.max_port {
            let reason = format!("{} is above max-port, {}", self.min_port, self.max_port);
            tell("min-port", Outcome::Refused(reason));
        }
        let tls = self.certificate(environment, &mut tell);
        let listening = self.listening_ips(environment);
        let at = |port| listening.iter().map(move |ip| SocketAddr::new(*ip, port));
        let mut listen: Vec<SocketAddr> = at(self.listening_port).collect();
        listen.extend(&self.aux_servers);
        // One port may be named twice: whatever comes is told apart by its first bytes.
        let secure = at(self.tls_listening_port).filter(|address| tls.is_some() && !listen.contains(address));
        let tls_listen = secure.collect();
        let relay_ips = self.relay_ips(&listening, environment, &mut tell);
        let discovery = self.discovery(&mut tell);
        let process = self.process();
        let defaults = RelayConfig::default();
        let relay = RelayConfig {
            realm: self.realm.or(self.server_name).unwrap_or_else(|| environment.host_name.to_owned()),
            credentials: Credentials {
                secrets: self.secrets,
                separator: self.separator,
                users: self.users.into_iter().map(|(name, word)| (name, Secret(word.into_bytes()))).collect(),
                anonymous: self.anonymous,
            },
            relay_ips,
            keep_address_family: self.keep_address_family,
            ports: self.min_port..=self.max_port,
            tcp_relay: self.tcp_relay,
            denied_peers: self.denied_peers,
            allowed_peers: with_loopback(self.allowed_peers, self.allow_loopback_peers),
            user_quota: self.user_quota,
            total_quota: self.total_quota,
            stranger_answers_per_second: self
                .stranger_answers
                .unwrap_or(defaults.stranger_answers_per_second),
            max_bps: self.max_bps,
            bps_capacity: self.bps_capacity,
            lifetimes: self.lifetimes,
            services: self.services,
            alternate_servers: self.alternate_servers,
            discovery,
            fingerprint: self.fingerprint,
            ..defaults
        };
        let settings = Settings {
            listen,
            tls_listen,
            tls,
            transports: self.transports,
            workers: self.workers,
            relay_buffer_bytes: self.socket_buffer_bytes,
            relay,
        };
        (settings, process)
    }

    fn check_credentials(&self, tell: &mut impl FnMut(&str, Outcome)) {
        let has_any = !(self.users.is_empty() && self.secrets.is_empty());
        if self.use_auth_secret && self.secrets.is_empty() {
            let reason = "there is no static-auth-secret: nobody could be let in";
            tell("use-auth-secret", Outcome::Refused(reason.into()));
        } else if self.anonymous && has_any {
            let reason = "it stands beside users or a secret: take it out, or them";
            tell("no-auth", Outcome::Refused(reason.into()));
        } else if !(has_any || self.anonymous || !self.services.turn) {
            let reason =
                "there are neither users nor a static-auth-secret: nobody can relay, only STUN is answered";
            tell("user", Outcome::Warned(reason.into()));
        }
        if self.anonymous && !has_any {
            tell("no-auth", Outcome::Warned("anybody may relay through this server".into()));
        }
    }

    fn certificate(
        &self,
        environment: &Environment<'_>,
        tell: &mut impl FnMut(&str, Outcome),
    ) -> Option<TlsFiles> {
        let wanted = self.transports.tls || self.transports.dtls;
        if let Some(list) = &self.cipher_list {
            tell("cipher-list", Outcome::Warned(ciphers::describe(list)));
        }
        if !wanted {
            return None;
        }
        let (cert, key) = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            (None, None) => {
                tell("cert", Outcome::Warned("there is no certificate: TLS and DTLS are off".into()));
                return None;
            }
            (Some(_), None) => {
                tell("pkey", Outcome::Refused("cert is given and its key is not".into()));
                return None;
            }
            (None, Some(_)) => {
                tell("cert", Outcome::Refused("pkey is given and its certificate is not".into()));
                return None;
            }
        };
        for (name, path) in [("cert", &cert), ("pkey", &key)] {
            if let Err(error) = (environment.readable)(path) {
                tell(name, Outcome::Refused(format!("cannot read {}: {error}", path.display())));
            }
        }
        Some(TlsFiles { cert, key })
    }

    /// Without listening-ip: everywhere.
    fn listening_ips(&self, environment: &Environment<'_>) -> Vec<IpAddr> {
        if !self.listening_ips.is_empty() {
            return self.listening_ips.clone();
        }
        let has_v6 = environment.addresses.iter().any(IpAddr::is_ipv6);
        let v6 = has_v6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        std::iter::once(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).chain(v6).collect()
    }

    /// As coturn has it: relay-ip, or else where it listens, or else every address of the machine that others can reach.
    fn relay_ips(
        &self,
        listening: &[IpAddr],
        environment: &Environment<'_>,
        tell: &mut impl FnMut(&str, Outcome),
    ) -> Vec<RelayIp> {
        let mut bound = self.relay_ips.clone();
        if bound.is_empty() {
            bound.extend(listening.iter().filter(|ip| !ip.is_unspecified()));
        }
        if bound.is_empty() {
            bound.extend(environment.addresses.iter().filter(|ip| is_reachable(**ip)));
        }
        if bound.is_empty() {
            bound.push(Ipv4Addr::LOCALHOST.into());
            tell("relay-ip", Outcome::Warned("this machine has only loopback addresses".into()));
        }
        bound.sort_by_key(IpAddr::is_ipv6); // stable: IPv4 first, in the order that they were given
        for private in self.external_ips.iter().filter_map(|(_, private)| *private) {
            if !bound.contains(&private) {
                let reason = format!("{private} is no relay address: nothing is announced for it");
                tell("external-ip", Outcome::Warned(reason));
            }
        }
        bound.into_iter().map(|ip| self.seen(ip)).collect()
    }

    /// By external-ip: the pair of this address, or the one that stands alone.
    fn seen(&self, bound: IpAddr) -> RelayIp {
        let pair = self.external_ips.iter().find(|(_, private)| *private == Some(bound));
        let mut alone = self.external_ips.iter().filter(|(_, private)| private.is_none());
        let shown = pair.or_else(|| alone.find(|(public, _)| public.is_ipv4() == bound.is_ipv4()));
        RelayIp { bound, shown: shown.map_or(bound, |(public, _)| *public) }
    }

    /// Two listening addresses of a family make its four sockets.
    fn discovery(&self, tell: &mut impl FnMut(&str, Outcome)) -> Vec<Discovery> {
        if !self.rfc5780 {
            return Vec::new();
        }
        let other = self.alt_listening_port.unwrap_or(self.listening_port.wrapping_add(1));
        let of = |is_v4: bool| {
            let mut ips =
                self.listening_ips.iter().filter(|ip| ip.is_ipv4() == is_v4 && !ip.is_unspecified());
            let ips = [self.seen(*ips.next()?), self.seen(*ips.next()?)];
            Some(Discovery { ips, ports: [self.listening_port, other] })
        };
        let discovery: Vec<Discovery> = [of(true), of(false)].into_iter().flatten().collect();
        if discovery.is_empty() {
            let reason = "it needs two listening-ip of one family: it stays off";
            tell("rfc5780", Outcome::Warned(reason.into()));
        }
        discovery
    }

    fn process(&self) -> Process {
        let log = match &self.log {
            _ if self.syslog => LogTo::Syslog,
            LogTo::Stdout if self.no_stdout_log => LogTo::Nowhere,
            log => log.clone(),
        };
        let metrics_ip = self.prometheus_address.unwrap_or(Ipv4Addr::LOCALHOST.into());
        Process {
            log,
            log_level: match (self.very_verbose, self.verbose) {
                (true, _) => "debug",
                (_, true) => "info,turn=debug",
                _ => "info",
            },
            pid_file: self.pid_file.clone(),
            daemon: self.daemon,
            run_as_user: self.run_as_user.clone(),
            run_as_group: self.run_as_group.clone(),
            drain_min_allocations: self.drain_min_allocations,
            metrics: self.prometheus.then_some(SocketAddr::new(metrics_ip, self.prometheus_port)),
        }
    }
}

/// `allow-loopback-peers`.
fn with_loopback(mut allowed: Vec<IpNet>, too: bool) -> Vec<IpNet> {
    if too {
        allowed.push(IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8));
        allowed.push(IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), 128));
    }
    allowed
}

/// Whether somebody on another machine may reach it.
fn is_reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified()),
    }
}

/// Whether a file can be opened; the shell's part of [`Environment`].
pub fn readable(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path).map(drop)
}
