//! What values look like: numbers, addresses, ranges of peers, users.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

/// coturn's words for true and false; a key that stands alone is true.
pub(super) fn flag(value: Option<&str>) -> Result<bool, String> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "1" | "on" | "yes" | "true" | "t" | "y") => Ok(true),
        Some("0" | "off" | "no" | "false" | "f" | "n") => Ok(false),
        Some(_) => Err("expected yes or no".into()),
    }
}

pub(super) fn number<T: FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| "expected a whole number".into())
}

pub(super) fn port(value: &str) -> Result<u16, String> {
    value.parse().ok().filter(|port| *port > 0).ok_or_else(|| "expected a port from 1 to 65535".into())
}

pub(super) fn seconds(value: &str) -> Result<Duration, String> {
    number(value).map(Duration::from_secs).map_err(|_| "expected a number of seconds".into())
}

/// An address; brackets around IPv6 are allowed.
pub(super) fn ip(value: &str) -> Result<IpAddr, String> {
    let bare = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(value);
    bare.parse().map_err(|_| "expected an IP address".into())
}

/// An address and a port, or an address alone with `port`.
pub(super) fn ip_and_port(value: &str, port: u16) -> Result<SocketAddr, String> {
    value
        .parse()
        .or_else(|_| ip(value).map(|ip| SocketAddr::new(ip, port)))
        .map_err(|_| "expected an IP address and a port".into())
}

/// `public` or `public/private`.
pub(super) fn external(value: &str) -> Result<(IpAddr, Option<IpAddr>), String> {
    let wrong = || "expected public-ip or public-ip/private-ip".to_owned();
    let (public, private) = value.split_once('/').map_or((value, None), |(a, b)| (a, Some(b)));
    let public = ip(public.trim()).map_err(|_| wrong())?;
    let private = private.map(|private| ip(private.trim())).transpose().map_err(|_| wrong())?;
    if private.is_some_and(|private| private.is_ipv4() != public.is_ipv4()) {
        return Err("expected both addresses to be of one family".into());
    }
    Ok((public, private))
}

/// One address, `first-last`, or CIDR.
pub(super) fn peers(value: &str) -> Result<Vec<IpNet>, String> {
    if let Ok(net) = value.parse::<IpNet>() {
        return Ok(vec![net.trunc()]);
    }
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    match (ip(first.trim()), ip(last.trim())) {
        (Ok(IpAddr::V4(first)), Ok(IpAddr::V4(last))) if first <= last => {
            Ok(Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect())
        }
        (Ok(IpAddr::V6(first)), Ok(IpAddr::V6(last))) if first <= last => {
            Ok(Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect())
        }
        _ => Err("expected an address, first-last, or a CIDR block".into()),
    }
}

/// `name:password`.
pub(super) fn user(value: &str) -> Result<(String, String), String> {
    match value.split_once(':') {
        Some((name, password)) if !name.is_empty() && !password.is_empty() => {
            Ok((name.to_owned(), password.to_owned()))
        }
        _ => Err("expected name:password or name:0xkey".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(value: &str) -> Vec<String> {
        peers(value).expect("a range").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ranges_become_blocks() {
        assert_eq!(nets("10.0.0.0-10.255.255.255"), ["10.0.0.0/8"]);
        assert_eq!(nets("192.0.2.1"), ["192.0.2.1/32"]);
        assert_eq!(nets("192.0.2.1-192.0.2.2"), ["192.0.2.1/32", "192.0.2.2/32"]);
        assert_eq!(nets("192.0.2.77/24"), ["192.0.2.0/24"]);
        assert_eq!(nets("fc00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), ["fc00::/7"]);
        assert_eq!(nets("::1"), ["::1/128"]);
        for wrong in ["", "10.0.0.9-10.0.0.1", "10.0.0.0-::1", "10.0.0.0/33", "a-b", "10.0.0.1-"] {
            assert!(peers(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn external_addresses_come_alone_or_in_pairs() {
        assert_eq!(external("198.51.100.1").map(|pair| pair.1), Ok(None));
        let pair = external("198.51.100.1/10.0.0.1").expect("a pair");
        assert_eq!(pair.1.map(|ip| ip.to_string()).as_deref(), Some("10.0.0.1"));
        assert!(external("198.51.100.1/::1").is_err());
        assert!(external("$(detect)").is_err());
    }

    #[test]
    fn the_words_for_yes_and_no() {
        assert_eq!(flag(None), Ok(true));
        for no in ["0", "off", "NO", "False", "f"] {
            assert_eq!(flag(Some(no)), Ok(false));
        }
        assert!(flag(Some("perhaps")).is_err());
    }
}
