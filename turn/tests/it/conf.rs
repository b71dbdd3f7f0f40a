//! Configuration files as they stand on servers, and what each becomes: `tests/conf/NAME.conf` beside `NAME.txt`.
//!
//! `UPDATE_EXPECTED=1 cargo test -p turn --test it conf` writes the texts anew, to be read before they are committed.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use turn::conf::{Conf, Entry, Environment, File, Outcome, Place, arguments, lines};

/// A machine behind a one-to-one NAT, with both families.
const ADDRESSES: [&str; 4] = ["127.0.0.1", "10.0.0.5", "::1", "2001:db8::5"];

fn read_entries(entries: impl IntoIterator<Item = Entry>) -> Conf {
    let addresses = ADDRESSES.map(|text| text.parse::<IpAddr>().expect("an address"));
    let readable = |path: &Path| match path.to_string_lossy().contains("missing") {
        true => Err(io::Error::from(io::ErrorKind::NotFound)),
        false => Ok(()),
    };
    Conf::read(entries, &Environment { addresses: &addresses, host_name: "turn1", readable: &readable })
}

fn read(text: &str) -> Conf {
    read_entries(lines(text))
}

fn told(conf: &Conf) -> String {
    let mut text = String::new();
    for note in &conf.notes {
        writeln!(text, "{note}").expect("a string takes it");
    }
    text.push('\n');
    for (name, value) in conf.describe() {
        writeln!(text, "{name}: {value}").expect("a string takes it");
    }
    text
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conf");
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    files.sort();
    files
}

#[test]
fn files_from_the_wild_become_what_stands_beside_them() {
    let files = files();
    assert!(files.len() >= 25);
    for path in files {
        let actual = told(&read(&fs::read_to_string(&path).expect("text")));
        let expected = path.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected, &actual).expect("written");
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert!(actual == expected, "{}: expected\n{expected}\nand it is\n{actual}", path.display());
    }
}

fn outcome(text: &str, key: &str) -> Outcome {
    let conf = read(text);
    let worst = conf.notes.iter().filter(|note| note.key == key).max_by_key(|note| match note.outcome {
        Outcome::Followed => 0,
        Outcome::Accepted(_) => 1,
        Outcome::Warned(_) => 2,
        Outcome::Refused(_) => 3,
    });
    worst.unwrap_or_else(|| panic!("{key} has no note in {text:?}")).outcome.clone()
}

#[test]
fn keys_that_are_followed() {
    let conf = read(
        "listening-port=3479\ntls-listening-port=5350\nlistening-ip=10.0.0.5\nrelay-ip=10.0.0.6\n\
         external-ip=198.51.100.7/10.0.0.6\nmin-port=50000\nmax-port=50100\nuse-auth-secret\n\
         static-auth-secret=one\nstatic-auth-secret=two\nuser=a:b\nuser=c:0x00112233445566778899aabbccddeeff\nrealm=r\n\
         cert=/c\npkey=/k\nuser-quota=3\ntotal-quota=30\nmax-bps=1000\nbps-capacity=2000\nstale-nonce=60\n\
         max-allocate-lifetime=1200\npermission-lifetime=100\nchannel-lifetime=200\nfingerprint\nsecure-stun\n\
         denied-peer-ip=203.0.113.0-203.0.113.255\nallowed-peer-ip=10.1.0.0/16\nallow-loopback-peers\n\
         keep-address-family\nalternate-server=192.0.2.1:3478\nrest-api-separator=;\nlog-file=/l\npidfile=/p\nverbose\n\
         proc-user=turn\nproc-group=turn\nprometheus\nprometheus-port=9000\ndrain-min-allocations=5\ndaemon\n",
    );
    assert_eq!(conf.refusals().count() + conf.warnings().count(), 0, "{}", told(&conf));
    assert!(conf.notes.iter().all(|note| note.outcome == Outcome::Followed));
    let relay = &conf.settings.relay;
    assert_eq!(conf.settings.listen, ["10.0.0.5:3479".parse().expect("an address")]);
    assert_eq!(conf.settings.tls_listen, ["10.0.0.5:5350".parse().expect("an address")]);
    assert_eq!(relay.relay_ips.len(), 1);
    assert_eq!(relay.relay_ips[0].bound.to_string(), "10.0.0.6");
    assert_eq!(relay.relay_ips[0].shown.to_string(), "198.51.100.7");
    assert_eq!(relay.ports, 50_000..=50_100);
    assert_eq!(relay.credentials.secrets.len(), 2);
    assert_eq!(relay.credentials.users.len(), 2);
    assert_eq!(relay.credentials.separator, ';');
    assert_eq!((relay.user_quota, relay.total_quota), (3, 30));
    assert_eq!((relay.max_bps, relay.bps_capacity), (1000, 2000));
    assert_eq!(relay.lifetimes.nonce.map(|nonce| nonce.as_secs()), Some(60));
    assert_eq!(relay.lifetimes.allocation_max.as_secs(), 1200);
    assert_eq!((relay.lifetimes.permission.as_secs(), relay.lifetimes.channel.as_secs()), (100, 200));
    assert!(relay.fingerprint && relay.services.secure_stun && relay.keep_address_family);
    assert_eq!(relay.denied_peers.len(), 1);
    assert_eq!(relay.allowed_peers.len(), 3, "a block, 127.0.0.0/8 and ::1");
    assert_eq!(relay.alternate_servers.len(), 1);
    let process = &conf.process;
    assert_eq!(process.log_level, "info,turn=debug");
    assert_eq!(process.metrics.map(|address| address.port()), Some(9000));
    assert_eq!((process.daemon, process.drain_min_allocations), (true, 5));
    assert_eq!(process.run_as_user.as_deref(), Some("turn"));
}

#[test]
fn keys_that_there_is_nothing_to_do_for() {
    for key in [
        "no-loopback-peers",
        "no-multicast-peers",
        "no-tlsv1",
        "no-tlsv1_1",
        "no-sslv2",
        "no-sslv3",
        "no-cli",
        "no-software-attribute",
        "no-stun-backward-compatibility",
        "response-origin-only-with-rfc5780",
        "ne=1",
        "simple-log",
        "new-log-timestamp",
        "new-log-timestamp-format=%F",
        "dh-file=/d",
        "dh2066",
        "ec-curve-name=x",
        "prod",
        "udp-recvmmsg",
        "udp-gso",
        "multiplex-peer",
        "multiplex-peer-port=1",
    ] {
        let name = key.split('=').next().expect("a part");
        assert!(matches!(outcome(key, name), Outcome::Accepted(_)), "{key}");
    }
    assert_eq!(
        outcome("lt-cred-mech\nuse-auth-secret\nstatic-auth-secret=x", "lt-cred-mech"),
        Outcome::Followed
    );
}

#[test]
fn keys_that_are_warned_of() {
    for key in [
        "cipher-list=ALL",
        "tlsv1",
        "tlsv1_1",
        "userdb=/var/lib/turn/turndb",
        "cli-password=x",
        "cli-port=5766",
        "cli-ip=127.0.0.1",
        "web-admin",
        "web-admin-port=8080",
        "mobility",
        "check-origin-consistency",
        "listening-device=eth0",
        "relay-device=eth0",
        "CA-file=/c",
        "no-such-key=1",
        "Listening-Port=1",
    ] {
        let name = key.split('=').next().expect("a part");
        assert!(matches!(outcome(key, name), Outcome::Warned(_)), "{key}");
    }
    let unknown = read("no-such-key=secret");
    assert!(
        told(&unknown).contains("line 1: no-such-key (warning: Bad configuration format"),
        "{}",
        told(&unknown)
    );
    assert!(!told(&unknown).contains("secret\n"), "what an unknown key was given is not shown");
    assert!(matches!(outcome("realm=a", "user"), Outcome::Warned(_)), "nobody could relay");
}

#[test]
fn what_is_refused() {
    for (text, key) in [
        ("psql-userdb=host=x", "psql-userdb"),
        ("mysql-userdb=host=x", "mysql-userdb"),
        ("mongo-userdb=mongodb://x", "mongo-userdb"),
        ("redis-userdb=ip=x", "redis-userdb"),
        ("use-auth-secret", "use-auth-secret"),
        ("static-auth-secret=", "static-auth-secret"),
        ("oauth", "oauth"),
        ("server-relay", "server-relay"),
        ("denied-peer-ip=10.0.0.0-", "denied-peer-ip"),
        ("allowed-peer-ip=example.org", "allowed-peer-ip"),
        ("cert=/missing.pem\npkey=/k", "cert"),
        ("cert=/c\npkey=/missing.pem", "pkey"),
        ("cert=/c", "pkey"),
        ("pkey-pwd=x", "pkey-pwd"),
        ("no-auth\nuser=a:b", "no-auth"),
        ("no-auth\nstatic-auth-secret=x", "no-auth"),
        ("min-port=2\nmax-port=1", "min-port"),
        ("listening-port=0", "listening-port"),
        ("listening-port", "listening-port"),
        ("listening-port=99999", "listening-port"),
        ("external-ip=${IP}", "external-ip"),
        ("user=alice", "user"),
        ("fingerprint=perhaps", "fingerprint"),
        ("tcp-proxy-port=1", "tcp-proxy-port"),
        ("no-udp-relay", "no-udp-relay"),
    ] {
        assert!(matches!(outcome(text, key), Outcome::Refused(_)), "{text}: {}", told(&read(text)));
    }
    // What is switched off is no reason to refuse.
    assert_eq!(read("oauth=no\nserver-relay=0\nno-auth=false\nuser=a:b").refusals().count(), 0);
    // A certificate that cannot be read is none of our business while TLS is off.
    assert_eq!(read("no-tls\nno-dtls\ncert=/missing.pem\npkey=/k\nuser=a:b").refusals().count(), 0);
}

#[test]
fn the_command_line_wins_and_lists_grow() {
    let words = "-n --listening-port=4000 -u b:c -L 10.0.0.9 --allow-loopback-peers";
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let (file, said) = arguments(&words).expect("options");
    assert_eq!(file, File::Nowhere);
    let conf = read_entries(lines("listening-port=3478\nlistening-ip=10.0.0.5\nuser=a:b").chain(said));
    let listen: Vec<String> = conf.settings.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["10.0.0.5:4000", "10.0.0.9:4000"]);
    assert_eq!(conf.settings.relay.credentials.users.len(), 2);
    assert!(conf.notes.iter().any(|note| note.place == Place::CommandLine));
}

#[test]
fn an_empty_pid_file_is_none() {
    assert_eq!(read("pidfile=").process.pid_file, None, "Debian's unit gives --pidfile=");
}

#[test]
fn secrets_are_not_shown() {
    let conf = read(
        "static-auth-secret=hush-hush\nuser=alice:hush-hush\ncli-password=hush-hush\nmysql-userdb=hush-hush",
    );
    assert!(!told(&conf).contains("hush"), "{}", told(&conf));
    assert!(!format!("{conf:?}").contains("hush"), "nor in what is logged for developers");
}

#[test]
fn nat_behaviour_discovery_wants_two_addresses() {
    let conf = read(
        "listening-ip=10.0.0.5\nlistening-ip=10.0.0.6\nexternal-ip=198.51.100.6/10.0.0.6\nrfc5780\nuser=a:b",
    );
    let [discovery] = conf.settings.relay.discovery[..] else { panic!("one family") };
    assert_eq!(discovery.ports, [3478, 3479]);
    assert_eq!(discovery.ips.map(|ip| ip.shown.to_string()), ["10.0.0.5", "198.51.100.6"]);
    assert!(matches!(outcome("rfc5780", "rfc5780"), Outcome::Warned(_)));
    assert!(
        read("listening-ip=10.0.0.5\nlistening-ip=10.0.0.6").settings.relay.discovery.is_empty(),
        "opt-in"
    );
}

#[test]
fn where_relays_are_when_nobody_says() {
    let shown = |text: &str| {
        let conf = read(text);
        let ips = conf.settings.relay.relay_ips.iter();
        ips.map(|ip| format!("{}>{}", ip.bound, ip.shown)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown(""), "10.0.0.5>10.0.0.5 2001:db8::5>2001:db8::5");
    assert_eq!(shown("external-ip=198.51.100.1"), "10.0.0.5>198.51.100.1 2001:db8::5>2001:db8::5");
    assert_eq!(shown("listening-ip=10.0.0.5"), "10.0.0.5>10.0.0.5");
    assert_eq!(shown("listening-ip=::\nrelay-ip=10.0.0.7"), "10.0.0.7>10.0.0.7");
    assert_eq!(
        shown("relay-ip=10.0.0.7\nrelay-ip=10.0.0.8\nexternal-ip=198.51.100.8/10.0.0.8"),
        "10.0.0.7>10.0.0.7 10.0.0.8>198.51.100.8"
    );
}

proptest! {
    /// No file ends the reader, and what is refused or not followed is always said.
    #[test]
    fn any_file_is_read(text in "([a-z-]{1,24}(=| |)[ -~]{0,30}\n){0,12}") {
        let conf = read(&text);
        let said = lines(&text).count();
        prop_assert!(conf.notes.len() >= said);
    }
}
