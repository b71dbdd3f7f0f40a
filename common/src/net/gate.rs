//! How many connections may be open: in all, and from one address. Asked before anything else is spent on a connection.
//!
//! Every TCP listener has one: HTTP, media and the relay. An IPv6 client owns at least a /64, so that is what counts as one
//! address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts connections; [`Gate::enter`] gives a [`Pass`] that is counted until it is dropped.
#[derive(Debug)]
pub struct Gate {
    open: Mutex<Open>,
    total: usize,
    per_address: usize,
    /// Dev mode: one machine plays all the clients.
    loopback_exempt: bool,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The right to have one connection open.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    /// `None` when the address is not counted.
    address: Option<IpAddr>,
}

impl Gate {
    /// Lets `total` in, and `per_address` of them from one address; in dev mode loopback is exempt from the latter.
    pub fn new(total: usize, per_address: usize, loopback_exempt: bool) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), total, per_address, loopback_exempt })
    }

    /// `None` when the address or the server holds as many as it may.
    pub fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Pass> {
        let exempt = self.loopback_exempt && from.to_canonical().is_loopback();
        let address = (!exempt).then(|| counted_as(from));
        let mut open = self.open();
        if open.total >= self.total {
            return None;
        }
        if let Some(address) = address {
            let count = open.by_address.entry(address).or_insert(0);
            if *count >= self.per_address {
                return None;
            }
            *count += 1;
        }
        open.total += 1;
        Some(Pass { gate: Arc::clone(self), address })
    }

    /// Connections open now.
    pub fn total(&self) -> usize {
        self.open().total
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut open = self.gate.open();
        open.total -= 1;
        let Some(address) = self.address else { return };
        let Some(count) = open.by_address.get_mut(&address) else { return };
        *count -= 1;
        if *count == 0 {
            open.by_address.remove(&address);
        }
    }
}

fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a literal address")
    }

    #[test]
    fn an_address_gets_its_share_and_not_more() {
        let gate = Gate::new(9, 2, false);
        let first = gate.enter(ip("192.0.2.1"));
        let second = gate.enter(ip("192.0.2.1"));
        assert!(first.is_some() && second.is_some());
        assert!(gate.enter(ip("192.0.2.1")).is_none());
        assert!(gate.enter(ip("192.0.2.2")).is_some());
        drop(first);
        assert!(gate.enter(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn a_slash_64_is_one_address_and_a_mapped_address_is_its_v4() {
        let gate = Gate::new(9, 1, false);
        let _v6 = gate.enter(ip("2001:db8::1"));
        assert!(gate.enter(ip("2001:db8::2")).is_none());
        assert!(gate.enter(ip("2001:db8:0:1::1")).is_some());
        let _v4 = gate.enter(ip("192.0.2.1"));
        assert!(gate.enter(ip("::ffff:192.0.2.1")).is_none());
    }

    #[test]
    fn loopback_is_exempt_only_where_said() {
        let counted = Gate::new(9, 0, false);
        assert!(counted.enter(ip("127.0.0.1")).is_none());
        let dev = Gate::new(9, 0, true);
        assert!(dev.enter(ip("127.0.0.1")).is_some());
        assert!(dev.enter(ip("192.0.2.1")).is_none());
    }

    #[test]
    fn all_together_get_the_total() {
        let gate = Gate::new(1, 9, true);
        let first = gate.enter(ip("127.0.0.1"));
        assert!(gate.enter(ip("127.0.0.1")).is_none());
        drop(first);
        assert!(gate.enter(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn nothing_is_left_behind() {
        let gate = Gate::new(9, 1, false);
        drop(gate.enter(ip("192.0.2.1")));
        assert_eq!(gate.total(), 0);
        assert!(gate.open().by_address.is_empty());
    }
}
