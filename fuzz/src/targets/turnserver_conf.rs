//! coturn's configuration file and command line: every entry has its note, both forms say the same, no secret is shown, and
//! a relay can be made of whatever is not refused.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use common::metrics::Registry;
use turn::conf::{Conf, Entry, Environment, File, Place, arguments, lines};
use turn::metrics::Metrics;
use turn::relay::Relay;

/// No input has it by chance.
const SECRET: &str = "b0f3e9c2-planted-secret";

/// Keys that `-c` and `-n` have for themselves.
const OF_THE_FILE: [&str; 2] = ["c", "n"];

/// The file; what stands behind a zero byte is an argument.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.contains(SECRET) {
        return;
    }
    let mut parts = text.split('\0');
    let mut entries: Vec<Entry> = lines(parts.next().unwrap_or_default()).collect();
    assert!(entries.is_sorted_by_key(|entry| entry.place), "in the order of the lines");
    entries.iter().for_each(says_the_same_as_an_argument);
    let said: Vec<String> = parts.map(Into::into).collect();
    let Ok((_, more)) = arguments(&said) else { return };
    entries.extend(more);
    check(entries);
}

fn says_the_same_as_an_argument(entry: &Entry) {
    if entry.key.is_empty() || OF_THE_FILE.contains(&entry.key.as_str()) {
        return;
    }
    // A value that follows a key which takes none would be an argument of its own: it hangs on the key.
    let argument = match &entry.value {
        Some(value) => format!("--{}=\"{value}\"", entry.key),
        None => format!("--{}", entry.key),
    };
    let expected = Entry { place: Place::CommandLine, ..entry.clone() };
    match arguments(&[argument]) {
        Ok(read) => assert_eq!(read, (File::Usual, vec![expected])),
        Err(reason) => assert!(entry.value.is_none(), "{entry:?}: {reason}"),
    }
}

fn check(mut entries: Vec<Entry>) {
    let planted = [("static-auth-secret", SECRET.to_owned()), ("user", format!("planted:{SECRET}"))];
    entries.extend(planted.map(|(key, value)| Entry {
        place: Place::CommandLine,
        key: key.to_owned(),
        value: Some(value),
    }));
    let conf = read(entries.clone());
    assert!(conf.notes.len() >= entries.len());
    for (entry, note) in entries.iter().zip(&conf.notes) {
        assert_eq!((&entry.key, entry.place), (&note.key, note.place));
    }
    for note in &conf.notes {
        assert!(!note.to_string().contains(SECRET), "{} shows a secret", note.key);
    }
    for (name, value) in conf.describe() {
        assert!(!value.contains(SECRET), "{name} shows a secret");
    }
    assert!(!format!("{conf:?}").contains(SECRET), "nor in Debug output");
    if conf.refusals().next().is_none() {
        can_run(conf);
    }
}

fn read(entries: Vec<Entry>) -> Conf {
    let addresses: [IpAddr; 2] =
        [Ipv4Addr::new(10, 0, 0, 5).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5).into()];
    let readable = |path: &Path| match path.to_string_lossy().contains("missing") {
        true => Err(io::Error::from(io::ErrorKind::NotFound)),
        false => Ok(()),
    };
    Conf::read(entries, &Environment { addresses: &addresses, host_name: "turn1", readable: &readable })
}

fn can_run(conf: Conf) {
    let settings = conf.settings;
    assert!(!settings.listen.is_empty());
    assert!(settings.tls_listen.iter().all(|address| !settings.listen.contains(address)));
    assert!(settings.tls_listen.is_empty() || settings.tls.is_some());
    assert!(!settings.relay.ports.is_empty() && !settings.relay.relay_ips.is_empty());
    #[allow(clippy::disallowed_methods)] // any moment will do
    let now = Instant::now();
    let metrics = Metrics::register(&Registry::new());
    let _ = Relay::new(settings.relay, metrics, [7; 32], now, Duration::ZERO);
}

/// Files as they stand on servers, and a command line.
pub fn seeds() -> Vec<Vec<u8>> {
    macro_rules! files {
        ($($name:literal)*) => {
            vec![$(include_bytes!(concat!("../../../turn/tests/conf/", $name, ".conf")).to_vec()),*]
        };
    }
    let mut seeds = files! {
        "aws" "contradictory" "debian-default" "game" "janus" "jitsi-meet" "kubernetes" "mumble-web" "nextcloud-talk-tls"
        "postgres-userdb" "quirks" "redirecting" "synapse-behind-nat" "unhardened" "windows-lines"
    };
    seeds.push(
        b"realm=a\0-v\0-p\x003479\0-L10.0.0.1\0--min-port\x005\0--stale-nonce\0--fingerprint\0-c\0/x"
            .to_vec(),
    );
    seeds.push(
        b"\0-n\0--rfc5780\0--listening-ip=10.0.0.1\0--listening-ip=10.0.0.2\0-X\x00198.51.100.1/10.0.0.1"
            .to_vec(),
    );
    seeds
}
