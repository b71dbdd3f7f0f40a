//! Precedence, defaults, and one line for everything that is wrong.

use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// A run of `Config::load` without files or environment.
#[derive(Default)]
struct Given<'a> {
    file: &'a str,
    env: &'a [(&'a str, &'a str)],
    set: &'a [&'a str],
    dev: bool,
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    match path.to_str() {
        Some("/secret") => Ok(format!("{KEY}\n").into_bytes()),
        Some("/short") => Ok(b"short\n".to_vec()),
        Some("/empty") => Ok(b"\n".to_vec()),
        Some("/pem") => Ok(b"not checked here".to_vec()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

impl Given<'_> {
    fn load(&self) -> Result<Config, ConfigError> {
        let set: Vec<String> = self.set.iter().map(|argument| (*argument).to_owned()).collect();
        Config::load(Sources {
            file: Some(("causeway.toml", self.file)),
            env: &mut self.env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
            set: &set,
            dev: self.dev,
            seed: [7; 32],
            cores: 4,
            read_file: &read_file,
        })
    }
}

/// The least that starts in production.
const BASE: &str =
    "http.tls = \"off\"\nauth.secret_file = \"/secret\"\nmedia.announced_ip = \"203.0.113.7\"\n";

fn production(extra: &str) -> Result<Config, ConfigError> {
    Given { file: &format!("{BASE}{extra}"), ..Given::default() }.load()
}

fn development(set: &[&str]) -> Result<Config, ConfigError> {
    Given { dev: true, set, ..Given::default() }.load()
}

#[test]
fn production_defaults() {
    let config = production("").unwrap();
    assert_eq!(config.http.listen, ["0.0.0.0:443".parse().unwrap()]);
    assert_eq!(config.media.workers, 4);
    assert_eq!(config.media.codecs, ["opus", "VP8", "VP9", "H264", "AV1"]);
    assert_eq!(config.signaling.max_message, 262_144);
    assert_eq!(config.turn.listen, ["0.0.0.0:3478".parse().unwrap()]);
    assert_eq!(config.turn.external_ip, Some("203.0.113.7".parse().unwrap()));
    assert_eq!((config.turn.min_port, config.turn.max_port), (49152, 65535));
    assert_eq!(config.store.url, Secret(b"sqlite:///var/lib/causeway/causeway.db".to_vec()));
    assert!(matches!(config.auth.key, AuthKey::Secret(Secret(ref bytes)) if bytes == KEY.as_bytes()));
    assert!(!config.dev);
}

#[test]
fn development_needs_nothing() {
    let config = Config::dev([7; 32]);
    assert_eq!(config.http.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(config.media.announced_ip, "127.0.0.1".parse::<IpAddr>().unwrap());
    assert_eq!((config.media.port, config.turn.listen[0].port()), (44444, 3478));
    assert_eq!(config.store.url, Secret(b"sqlite://causeway-data/causeway.db".to_vec()));
    assert_eq!(config.store.spill_dir, Path::new("causeway-data"));
    assert!(matches!(config.auth.key, AuthKey::Secret(Secret(ref bytes)) if *bytes == [7; 32]));
    assert_ne!(config.turn.secret, Secret(vec![7; 32]), "the relay's secret signs no tokens");
    assert!(config.dev && config.http.tls.is_none());
}

#[test]
fn the_environment_wins_over_the_file_and_set_over_both() {
    let file = "media.port = 1000\nmedia.tcp = true\nhttp.listen = \"127.0.0.1:1\"\n";
    let env = [
        ("CAUSEWAY_MEDIA__PORT", "2000"),
        ("CAUSEWAY_MEDIA__TCP", "false"),
        ("CAUSEWAY_MEDIA", "x"),
        ("HOME", "/"),
    ];
    let config = Given { file, env: &env, set: &["media.port=3000"], dev: true }.load().unwrap();
    assert_eq!((config.media.port, config.media.tcp), (3000, false));
    assert_eq!(config.http.listen, ["127.0.0.1:1".parse().unwrap()]);
}

#[test]
fn lists_may_be_given_in_every_way() {
    let two: Vec<SocketAddr> = vec!["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()];
    let listen = |set: &str| development(&[set]).unwrap().http.listen;
    assert_eq!(listen("http.listen=127.0.0.1:1, [::1]:2"), two);
    assert_eq!(listen("http.listen=[\"127.0.0.1:1\", \"[::1]:2\"]"), two);
    assert_eq!(listen("http.listen=\"127.0.0.1:1\""), two[..1]);
    let file = "[http]\nlisten = [\"127.0.0.1:1\", \"[::1]:2\"]";
    assert_eq!(Given { file, dev: true, ..Given::default() }.load().unwrap().http.listen, two);
}

#[test]
fn secrets_of_digits_stay_text_and_forms_replace_each_other() {
    let digits = "12345678901234567890123456789012";
    let config =
        Given { file: BASE, env: &[("CAUSEWAY_AUTH__SECRET", digits)], ..Given::default() }.load().unwrap();
    assert!(matches!(config.auth.key, AuthKey::Secret(Secret(ref bytes)) if bytes == digits.as_bytes()));
    let config = development(&["turn.users.alice=5", "turn.users.bob=\"b\""]).unwrap();
    assert_eq!(config.turn.users.len(), 2);
    assert_eq!(config.turn.users["alice"], Secret(b"5".to_vec()));
}

#[test]
fn tables_may_be_given_key_by_key() {
    let config = production("").unwrap();
    assert!(config.http.tls.is_none());
    let config =
        Given { file: BASE, set: &["http.tls.cert=/pem", "http.tls.key=/pem"], ..Given::default() }.load();
    assert_eq!(config.unwrap().http.tls.unwrap().cert, Path::new("/pem"));
}

#[test]
fn what_is_wrong_is_named_in_one_line() {
    let check = |extra: &str, expected: &str| {
        let error = production(extra).expect_err(extra).to_string();
        assert!(error.starts_with(expected), "{extra:?} gave {error:?}, expected {expected:?}");
        assert!(!error.contains('\n'));
    };
    check("media.port = \"x\"", "media.port: expected a whole number from 1 to 65535");
    check("media.port = 0", "media.port: ");
    check("media.port = 70000", "media.port: ");
    check("media.port = -1", "media.port: ");
    check("media.port = 65534", "media.port: 4 workers from port 65534 pass 65535");
    check("media.prot = 1", "media.prot: unknown key");
    check("media.tcp = 1", "media.tcp: expected true or false");
    check("media.codecs = [\"VP8\", \"vp8\"]", "media.codecs: VP8 is named twice");
    check("media.codecs = [\"H265\"]", "media.codecs: unknown codec");
    check("media.codecs = []", "media.codecs: ");
    check("media.listen_ip = \"localhost\"", "media.listen_ip: expected an IP address");
    check("media.max_bitrate = \"fast\"", "media.max_bitrate: ");
    check("media.max_speakers = -1", "media.max_speakers: ");
    check("medai.port = 1", "medai: unknown section");
    check("log = 1", "log: expected a section");
    check("log.format = \"xml\"", "log.format: ");
    check("http.listen = []", "http.listen: ");
    check("http.listen = [1]", "http.listen: expected a list of strings");
    check("http.listen = \"8080\"", "http.listen: expected an address and port");
    check("http.public_url = \"call.example.org\"", "http.public_url: ");
    check("signaling.resume_grace = 10", "signaling.resume_grace: expected a duration such as \"10s\"");
    check("signaling.heartbeat = \"0s\"", "signaling.heartbeat: at least 1 s");
    check("signaling.max_message = \"1KiB\"", "signaling.max_message: ");
    check("auth.secret = \"x\"", "auth.secret_file: given together with auth.secret");
    check("turn.secret_file = \"/nowhere\"", "turn.secret_file: cannot read /nowhere: ");
    check("turn.secret_file = \"/empty\"", "turn.secret_file: is empty");
    check("turn.min_port = 50000\nturn.max_port = 49999", "turn.max_port: ");
    check("turn.denied_peers = [\"10.0.0.0/40\"]", "turn.denied_peers: expected a network");
    check("turn.users = { alice = 1 }", "turn.users.alice: ");
    check("turn.users = \"alice\"", "turn.users: ");
    check("turn.realm = \"\"", "turn.realm: ");
    check("store.url = \"mysql://x\"", "store.url: expected sqlite://");
    check("limits.max_peers_per_room = 0", "limits.max_peers_per_room: ");
    check("metrics.listen = \"9090\"", "metrics.listen: ");
    check("cluster.redis_url = \"x\"", "cluster: unknown section");
    check("turn.tls_listen = []", "turn.tls_listen: expected at least one");
    check("media.port = ", "causeway.toml: line 4: ");
    check("media.announced_ip = \"::\"", "causeway.toml: line 4: ");
}

#[test]
fn what_production_requires_is_asked_for() {
    let check = |file: &str, expected: &str| {
        let error = Given { file, ..Given::default() }.load().expect_err(file).to_string();
        assert!(error.starts_with(expected), "{file:?} gave {error:?}");
    };
    check("", "http.tls: required on 0.0.0.0:443");
    check("http.listen = \"127.0.0.1:80\"", "auth.secret: required");
    check("http.tls = \"on\"", "http.tls: expected {");
    check("http.tls = { cert = \"/pem\" }", "http.tls.key: required");
    check("http.tls = { cert = \"/nowhere\", key = \"/pem\" }", "http.tls.cert: cannot read /nowhere");
    check("http.tls = { cert = \"/pem\", key = \"/pem\", ca = \"/pem\" }", "http.tls.ca: unknown key");
    check("http.tls = \"off\"\nauth.secret_file = \"/secret\"", "media.announced_ip: required");
    check("http.tls = \"off\"\nauth.secret_file = \"/short\"", "auth.secret_file: too short");
    check(
        "http.tls = \"off\"\nauth.public_key_file = \"/short\"",
        "auth.public_key_file: is not a public key",
    );
    check("http.tls = \"off\"\nauth.jwks_file = \"/short\"", "auth.jwks_file: is not a JWKS");
}

#[test]
fn development_stays_on_loopback() {
    let check = |set: &str, expected: &str| {
        let error = development(&[set]).expect_err(set).to_string();
        assert!(error.starts_with(expected), "{set} gave {error:?}");
    };
    check("http.listen=0.0.0.0:8080", "http.");
    check("media.listen_ip=192.0.2.1", "media.listen_ip: ");
    check("turn.listen=0.0.0.0:3478", "turn.listen: ");
    check("turn.relay_ip=192.0.2.1", "turn.relay_ip: ");
    check("metrics.listen=0.0.0.0:9090", "metrics.listen: ");
    assert!(development(&["http.listen=[::1]:8081", "media.workers=2"]).is_ok());
    let error = development(&["http.tls=off", "http.listen=0.0.0.0:8080"]).unwrap_err();
    assert_eq!(error.setting(), "http.listen");
}

#[test]
fn set_needs_a_path_and_a_value() {
    let check =
        |set: &str, expected: &str| assert_eq!(development(&[set]).unwrap_err().setting(), expected, "{set}");
    check("media.port", "--set");
    check("port=1", "port");
    check("media..port=1", "media..port");
    check("a.b.c.d=1", "a.b.c.d");
    check("media.codecs=[", "media.codecs");
    check("media.codecs=[VP8]", "media.codecs");
    check("media.port=\"1\"\nmedia.tcp=\"2\"", "media.port");
    check("media.port.x=1", "media.port");
}

#[test]
fn the_spill_directory_is_beside_the_database() {
    let spill_dir = |url: &str| production(&format!("store.url = {url:?}")).unwrap().store.spill_dir;
    assert_eq!(spill_dir("sqlite:///data/x.db?mode=rwc"), Path::new("/data"));
    assert_eq!(spill_dir("sqlite://x.db"), Path::new("."));
    assert_eq!(spill_dir("sqlite::memory:"), Path::new("/var/lib/causeway"));
    assert_eq!(spill_dir("postgres://u:p@h/d"), Path::new("/var/lib/causeway"));
}

#[test]
fn a_description_names_every_setting_and_no_secret() {
    let extra = "store.url = \"postgres://u:hunter2@db/x\"\nturn.secret = \"hunter2\"\nturn.users = { alice = \"hunter2\" }";
    let rows = production(extra).unwrap().describe();
    let text: String = rows.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    assert!(text.contains("http.listen = [\"0.0.0.0:443\"]"));
    assert!(text.contains("signaling.resume_grace = \"10s\""));
    assert!(text.contains("auth.secret = (secret, 32 bytes)"));
    assert!(text.contains("turn.users = [\"alice\"]"));
    assert!(!text.contains("hunter2") && !text.contains(KEY), "{text}");
    let debug = format!("{:?}", production(extra).unwrap());
    assert!(!debug.contains("hunter2") && !debug.contains(KEY), "{debug}");
}

proptest! {
    #[test]
    fn no_file_breaks_the_parser(file in "(\\[?[a-z_.]{0,12}\\]?( = .{0,12})?\n){0,6}") {
        if let Err(error) = (Given { file: &file, dev: true, ..Given::default() }).load() {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn no_setting_breaks_the_parser(
        section in "http|auth|signaling|media|turn|store|limits|log|metrics",
        key in "listen|tls|tls.cert|secret|users|users.a|port|workers|codecs|url|level|heartbeat|min_port|[a-z.]{1,9}",
        value in "\\PC{0,16}|[\\[{\"].{0,16}|-?[0-9]{1,22}(ms|s|KiB|Mbps)?|true|false",
    ) {
        if let Err(error) = development(&[&format!("{section}.{key}={value}")]) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
