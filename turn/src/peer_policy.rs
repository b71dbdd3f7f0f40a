//! Which peers may be reached through the relay: by default only public ones (RFC 8656 §21.1).
//!
//! IPv4 addresses inside of IPv6 ones are unwrapped first, so that no spelling of a denied address gets by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What a peer's IP address may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Any port.
    Allowed,
    /// Only our own media and relayed addresses there, which are reached in memory.
    OwnOnly,
    /// Nothing.
    Denied,
}

/// The operator's lists over the built-in ranges.
#[derive(Debug, Clone, Default)]
pub struct PeerPolicy {
    denied: Vec<IpNet>,
    allowed: Vec<IpNet>,
    own: Vec<IpAddr>,
}

impl PeerPolicy {
    /// `own` are the addresses of our media and our relay; `allowed` wins over everything denied.
    pub fn new(denied: Vec<IpNet>, allowed: Vec<IpNet>, own: Vec<IpAddr>) -> Self {
        Self { denied, allowed, own: own.into_iter().map(canonical).collect() }
    }

    /// Whether the operator's list of allowed peers has this address.
    pub fn is_listed(&self, peer: IpAddr) -> bool {
        contain(&self.allowed, peer)
    }

    /// The verdict on one address.
    pub fn verdict(&self, peer: IpAddr) -> Verdict {
        let ip = canonical(peer);
        if self.is_listed(peer) || is_public(ip) && !contain(&self.denied, peer) {
            Verdict::Allowed
        } else if self.own.contains(&ip) {
            Verdict::OwnOnly
        } else {
            Verdict::Denied
        }
    }
}

fn contain(nets: &[IpNet], peer: IpAddr) -> bool {
    let ip = canonical(peer);
    nets.iter().any(|net| net.contains(&ip) || net.contains(&peer))
}

/// The IPv4 address inside of an IPv6 one, in any of its forms; other addresses as they are.
pub fn canonical(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => embedded_v4(v6).map_or(ip, IpAddr::V4),
    }
}

fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = ip.to_bits();
    let low = Ipv4Addr::from_bits(bits as u32);
    match ip.segments() {
        // ::1 and :: are IPv6's own; other ::a.b.c.d are IPv4-compatible (RFC 4291 §2.5.5.1)
        [0, 0, 0, 0, 0, 0, ..] if bits > 1 => Some(low),
        [0, 0, 0, 0, 0, 0xFFFF, ..] => Some(low), // IPv4-mapped (RFC 4291 §2.5.5.2)
        [0, 0, 0, 0, 0xFFFF, 0, ..] => Some(low), // IPv4-translated (RFC 2765 §2.1)
        [0x64, 0xFF9B, 0, 0, 0, 0, ..] => Some(low), // NAT64 (RFC 6052 §2.1)
        [0x2002, ..] => Some(Ipv4Addr::from_bits((bits >> 80) as u32)), // 6to4 (RFC 3056 §2)
        [0x2001, 0, ..] => Some(Ipv4Addr::from_bits(!(bits as u32))), // Teredo (RFC 4380 §4)
        [_, _, _, _, 0 | 0x200, 0x5EFE, ..] => Some(low), // ISATAP (RFC 5214 §6.1)
        _ => None,
    }
}

/// Whether an address is one that the public Internet routes (IANA special-purpose registries, RFC 6890).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = a == 0                                // "this network", RFC 1122
        || ip.is_private()                              // RFC 1918
        || a == 100 && b & 0xC0 == 64                   // shared by carriers, RFC 6598
        || ip.is_loopback()                             // RFC 1122
        || ip.is_link_local()                           // RFC 3927, and the clouds' metadata services
        || (a, b, c) == (192, 0, 0)                     // IETF protocols, RFC 6890; metadata at 192.0.0.192
        || a == 198 && b & 0xFE == 18                   // benchmarks, RFC 2544
        || (a, b, c) == (192, 88, 99)                   // 6to4 relays, RFC 7526
        || a == 168 && ip.octets() == [168, 63, 129, 16] // Azure's metadata and wire server
        || a >= 224; // multicast RFC 5771, reserved RFC 1112, broadcast
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    // Only 2000::/3 is handed out (RFC 4291 §2.4, IANA's IPv6 address space registry): what else there is, from ::1 over
    // fd00:ec2::254 and link-local to multicast, is not of the Internet.
    let special = a & 0xE000 != 0x2000
        || a == 0x2001 && b & 0xFE00 == 0               // IETF protocols, RFC 2928
        || a == 0x2001 && b == 0xDB8                    // documentation, RFC 3849
        || a == 0x3FFF && b & 0xF000 == 0; // documentation, RFC 9637
    !special
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdict(policy: &PeerPolicy, ip: &str) -> Verdict {
        policy.verdict(ip.parse().expect("an address"))
    }

    #[test]
    fn only_public_addresses_are_reachable_by_default() {
        let policy = PeerPolicy::default();
        for denied in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "64:ff9b:1::1",
        ] {
            assert_eq!(verdict(&policy, denied), Verdict::Denied, "{denied}");
        }
        for allowed in
            ["8.8.8.8", "100.63.0.1", "100.128.0.1", "172.32.0.1", "223.255.255.255", "2606:4700::1"]
        {
            assert_eq!(verdict(&policy, allowed), Verdict::Allowed, "{allowed}");
        }
    }

    #[test]
    fn no_spelling_of_a_denied_ipv4_address_gets_by() {
        let policy = PeerPolicy::default();
        for form in [
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "2001:0:1:2:3:4:80ff:fffe",
            "2a00::5efe:7f00:1",
            "2a00::200:5efe:10.0.0.1",
            "::ffff:169.254.169.254",
        ] {
            assert_eq!(verdict(&policy, form), Verdict::Denied, "{form}");
        }
        assert_eq!(verdict(&policy, "::ffff:8.8.8.8"), Verdict::Allowed);
        let denies = PeerPolicy::new(vec!["8.8.8.0/24".parse().expect("a net")], vec![], vec![]);
        assert_eq!(verdict(&denies, "::ffff:8.8.8.8"), Verdict::Denied);
    }

    #[test]
    fn allowed_wins_and_our_own_address_is_for_our_own_ports() {
        let net = |text: &str| text.parse::<IpNet>().expect("a net");
        let own = vec!["192.168.1.10".parse().expect("an address")];
        let policy =
            PeerPolicy::new(vec![net("9.0.0.0/8")], vec![net("127.0.0.0/8"), net("9.9.9.9/32")], own);
        assert_eq!(verdict(&policy, "127.0.0.1"), Verdict::Allowed);
        assert_eq!(verdict(&policy, "9.9.9.9"), Verdict::Allowed);
        assert_eq!(verdict(&policy, "9.9.9.8"), Verdict::Denied);
        assert_eq!(verdict(&policy, "192.168.1.10"), Verdict::OwnOnly);
        assert_eq!(verdict(&policy, "192.168.1.11"), Verdict::Denied);
    }

    /// Every way that we know of writing an IPv4 address as an IPv6 one.
    fn forms(v4: Ipv4Addr) -> [Ipv6Addr; 9] {
        let low = u128::from(v4.to_bits());
        let with = |high: u128| Ipv6Addr::from_bits(high | low);
        [
            with(0),                                                                       // IPv4-compatible
            with(0xFFFF << 32),                                                            // IPv4-mapped
            with(0xFFFF << 48),                                                            // IPv4-translated
            with(0x64_FF9B << 96),                                                         // NAT64
            Ipv6Addr::from_bits(0x2002 << 112 | low << 80 | 0xDEAD),                       // 6to4
            Ipv6Addr::from_bits(0x2001 << 112 | 0x4136_E378 << 64 | (!low & 0xFFFF_FFFF)), // Teredo
            with(0x2A00 << 112 | 0x5EFE << 32),                                            // ISATAP
            with(0x2A00 << 112 | 0x0200_5EFE << 32), // ISATAP, universal bit
            with(0xFE80 << 112 | 0x5EFE << 32),      // ISATAP, link-local
        ]
    }

    fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
        let special = [
            [127, 0, 0, 1],
            [10, 0, 0, 1],
            [169, 254, 169, 254],
            [192, 168, 1, 10],
            [100, 64, 0, 1],
            [0, 0, 0, 0],
            [224, 0, 0, 1],
            [255, 255, 255, 255],
            [8, 8, 8, 8],
        ];
        prop_oneof![
            any::<u32>().prop_map(Ipv4Addr::from_bits),
            proptest::sample::select(special.to_vec()).prop_map(Ipv4Addr::from)
        ]
    }

    fn nets() -> impl Strategy<Value = Vec<IpNet>> {
        let net = (any_v4(), 0u8..=32)
            .prop_map(|(ip, bits)| IpNet::new(IpAddr::V4(ip), bits).expect("at most 32").trunc());
        proptest::collection::vec(net, 0..3)
    }

    proptest! {
        #[test]
        fn every_form_of_an_address_has_the_verdict_of_the_address(
            ip in any_v4(), denied in nets(), allowed in nets(), own in proptest::collection::vec(any_v4(), 0..3),
        ) {
            let policy = PeerPolicy::new(denied, allowed, own.into_iter().map(IpAddr::V4).collect());
            let plain = policy.verdict(IpAddr::V4(ip));
            for form in forms(ip) {
                let is_its_own = form.is_unspecified() || form.is_loopback();
                prop_assert_eq!(canonical(IpAddr::V6(form)) == IpAddr::V4(ip), !is_its_own, "{}", form);
                if !is_its_own {
                    prop_assert_eq!(policy.verdict(IpAddr::V6(form)), plain, "{} as {}", ip, form);
                }
            }
        }

        #[test]
        fn our_own_address_is_reachable_whatever_is_denied(ip in any_v4(), denied in nets(), v6 in any::<u128>()) {
            let everything = [denied, vec!["::/0".parse().expect("a net"), "0.0.0.0/0".parse().expect("a net")]].concat();
            let v6 = Ipv6Addr::from_bits(v6);
            let policy = PeerPolicy::new(everything, vec![], vec![ip.into(), v6.into()]);
            prop_assert_eq!(policy.verdict(ip.into()), Verdict::OwnOnly);
            prop_assert_eq!(policy.verdict(v6.into()), Verdict::OwnOnly);
        }

        /// Whatever an IPv6 address holds: what is not global unicast (RFC 4291 §2.4) is nobody's peer.
        #[test]
        fn only_global_unicast_is_reachable(bits in any::<u128>(), high in any::<u8>()) {
            let ip = Ipv6Addr::from_bits(bits >> 8 | u128::from(high) << 120);
            let is_global = ip.segments()[0] & 0xE000 == 0x2000;
            let policy = PeerPolicy::default();
            if !is_global && canonical(ip.into()) == IpAddr::V6(ip) {
                prop_assert_eq!(policy.verdict(ip.into()), Verdict::Denied, "{}", ip);
            }
        }
    }
}
