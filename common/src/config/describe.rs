//! What every key became, for `causeway check-config`; secrets show their length only.

use std::fmt::Display;

use super::units::show_duration;
use super::{AuthKey, Config, Secret};

impl Config {
    /// Every setting's name and value, in the order of the documentation. Fit to be printed: no secret is in it.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let mut row = |key, value: String| rows.push((key, value));

        row("http.listen", list(&self.http.listen));
        match &self.http.tls {
            None => row("http.tls", quoted("off")),
            Some(files) => {
                row("http.tls.cert", quoted(files.cert.display()));
                row("http.tls.key", quoted(files.key.display()));
            }
        }
        row("http.public_url", optional(&self.http.public_url));

        match &self.auth.key {
            AuthKey::Secret(secret) => row("auth.secret", hidden(secret)),
            AuthKey::PublicKey(pem) => row("auth.public_key_file", format!("(PEM, {} bytes)", pem.len())),
            AuthKey::Jwks(jwks) => row("auth.jwks_file", format!("(JWKS, {} bytes)", jwks.len())),
        }
        row("auth.issuer", optional(&self.auth.issuer));
        row("auth.audience", optional(&self.auth.audience));

        row("signaling.resume_grace", quoted(show_duration(self.signaling.resume_grace)));
        row("signaling.ring_timeout", quoted(show_duration(self.signaling.ring_timeout)));
        row("signaling.heartbeat", quoted(show_duration(self.signaling.heartbeat)));
        row("signaling.drain_timeout", quoted(show_duration(self.signaling.drain_timeout)));
        row("signaling.max_message", self.signaling.max_message.to_string());

        row("media.listen_ip", quoted(self.media.listen_ip));
        row("media.announced_ip", quoted(self.media.announced_ip));
        row("media.port", self.media.port.to_string());
        row("media.workers", self.media.workers.to_string());
        row("media.tcp", self.media.tcp.to_string());
        row("media.max_bitrate", self.media.max_bitrate.map_or("(none)".into(), |rate| rate.to_string()));
        row("media.max_speakers", self.media.max_speakers.to_string());
        row("media.codecs", list(&self.media.codecs));

        row("turn.enabled", self.turn.enabled.to_string());
        row(
            "turn.turnserver_conf",
            self.turn.turnserver_conf.as_ref().map_or("(none)".into(), |path| quoted(path.display())),
        );
        row("turn.listen", list(&self.turn.listen));
        row("turn.tls_listen", list(&self.turn.tls_listen));
        match &self.turn.tls {
            None => row("turn.tls", quoted("off")),
            Some(files) => {
                row("turn.tls.cert", quoted(files.cert.display()));
                row("turn.tls.key", quoted(files.key.display()));
            }
        }
        row("turn.workers", self.turn.workers.to_string());
        row("turn.realm", quoted(&self.turn.realm));
        row("turn.relay_ip", quoted(self.turn.relay_ip));
        row("turn.external_ip", optional(&self.turn.external_ip));
        row("turn.min_port", self.turn.min_port.to_string());
        row("turn.max_port", self.turn.max_port.to_string());
        row("turn.secret", hidden(&self.turn.secret));
        row("turn.users", list(self.turn.users.keys()));
        row("turn.denied_peers", list(&self.turn.denied_peers));
        row("turn.allowed_peers", list(&self.turn.allowed_peers));
        row("turn.user_quota", self.turn.user_quota.to_string());
        row("turn.total_quota", self.turn.total_quota.to_string());

        row("store.url", store_url(&self.store.url));
        row("store.spill_dir", quoted(self.store.spill_dir.display()));
        row("limits.connections_per_ip", self.limits.connections_per_ip.to_string());
        row("limits.joins_per_minute_per_user", self.limits.joins_per_minute_per_user.to_string());
        row("limits.max_peers_per_room", self.limits.max_peers_per_room.to_string());
        row("log.level", quoted(&self.log.level));
        row("log.format", quoted(if self.log.json { "json" } else { "text" }));
        row("metrics.listen", optional(&self.metrics.listen));
        rows
    }
}

fn quoted(value: impl Display) -> String {
    format!("{:?}", value.to_string())
}

fn optional(value: &Option<impl Display>) -> String {
    value.as_ref().map_or("(none)".into(), quoted)
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<String> = items.into_iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

fn hidden(secret: &Secret) -> String {
    format!("(secret, {} bytes)", secret.0.len())
}

/// An SQLite path is no secret; of a PostgreSQL URL only the scheme is shown, the rest may hold a password.
fn store_url(url: &Secret) -> String {
    match std::str::from_utf8(&url.0) {
        Ok(url) if url.starts_with("sqlite:") => quoted(url),
        _ => quoted("postgres://…"),
    }
}
