//! The configuration file: one line says what is wrong, and a configuration that loads can be run and described.

use std::io;
use std::path::Path;

use common::config::{Config, Sources, parse_duration};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    match path.to_str() {
        Some("/secret") => Ok(SECRET.into()),
        Some("/empty") => Ok(Vec::new()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// First byte: odd is development mode. Then the file; what stands behind a zero byte is an argument of `--set`.
pub fn run(data: &[u8]) {
    let Some((&dev, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let _ = parse_duration(text);
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let set: Vec<String> = parts.map(Into::into).collect();
    let loaded = Config::load(Sources {
        file: Some(("causeway.toml", file)),
        env: &mut std::iter::empty(),
        set: &set,
        dev: dev % 2 == 1,
        seed: [7; 32],
        cores: 4,
        read_file: &read_file,
    });
    match loaded {
        Ok(config) => acceptable(&config),
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?} is one line"),
    }
}

fn acceptable(config: &Config) {
    assert!(config.media.workers >= 1);
    assert!(config.turn.min_port <= config.turn.max_port);
    assert!(!config.dev || config.http.listen.iter().all(|address| address.ip().is_loopback()));
    assert!(!config.signaling.heartbeat.is_zero());
    for (setting, value) in config.describe() {
        assert!(!value.contains(SECRET), "{setting} shows a secret");
    }
}

/// What an operator writes.
pub fn seeds() -> Vec<Vec<u8>> {
    let base = "\0http.tls = \"off\"\nauth.secret_file = \"/secret\"\nmedia.announced_ip = \"203.0.113.7\"\n";
    let rest = "[http]\nlisten = [\"0.0.0.0:80\"]\ntls = \"off\"\npublic_url = \"https://a.example\"\n[auth]\nsecret_file = \"/secret\"\n\
        issuer = \"i\"\n[signaling]\nresume_grace = \"10s\"\nring_timeout = \"45s\"\nheartbeat = \"15s\"\nmax_message = \"256KiB\"\n\
        [media]\nannounced_ip = \"203.0.113.7\"\nport = 44444\nworkers = 2\ncodecs = [\"opus\", \"VP8\"]\nmax_bitrate = \"2M\"\n\
        [turn]\nrealm = \"r\"\nmin_port = 49152\nmax_port = 50000\nusers = { a = \"b\" }\ndenied_peers = [\"10.0.0.0/8\"]\n\
        [store]\nurl = \"sqlite:calls.db\"\n[limits]\n[log]\nlevel = \"info\"\n[metrics]\n";
    vec![
        base.into(),
        format!("\0{rest}").into_bytes(),
        b"\x01".to_vec(),
        b"\x01[media]\nport = 1\n\0media.workers=3\0turn.enabled=false\0limits.max_peers_per_room=5".to_vec(),
    ]
}
