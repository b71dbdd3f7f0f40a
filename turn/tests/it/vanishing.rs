//! Clients that connect, relay and vanish, again and again: nothing of them is left behind.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::metrics::Registry;
use common::net::{Gate, raise_open_files};

use crate::client::addr;
use crate::loopback::{PATIENCE, Stream, connect, relays_to_a_peer, settings, start_settings, udp_socket};
use crate::secure::{Pem, secure, with_tls};

/// At once; each comes again and again under another address.
const CLIENTS: usize = 100;
/// For so long they come and go.
const SEASON: Duration = Duration::from_secs(60);
/// Between two visits of one client, so that those who have vanished and are not forgotten yet find ports enough.
const PAUSE: Duration = Duration::from_millis(500);
/// Of allocations, so that those of UDP clients end while the test waits, and long enough for a busy machine.
const LIFETIME: Duration = Duration::from_secs(8);
/// Of this test alone, so that its sockets can be told from others.
const PORTS: std::ops::RangeInclusive<u16> = 16_000..=17_999;

/// UDP sockets on this machine that are bound to a port of [`PORTS`].
fn relay_sockets() -> usize {
    let table = std::fs::read_to_string("/proc/net/udp").expect("Linux has it");
    let local_ports = table.lines().skip(1).filter_map(|line| {
        let address = line.split_whitespace().nth(1)?;
        u16::from_str_radix(address.rsplit(':').next()?, 16).ok()
    });
    local_ports.filter(|port| PORTS.contains(port)).count()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} is left behind");
        thread::sleep(Duration::from_millis(50));
    }
}

fn allocations(registry: &Registry) -> i64 {
    let text = registry.encode();
    let line = text.lines().find_map(|line| line.strip_prefix("causeway_turn_allocations "));
    line.expect("it is registered").parse().expect("a number")
}

#[test]
fn a_hundred_clients_that_come_and_vanish_leave_nothing_behind() {
    raise_open_files();
    let pem = Pem::new("vanishing");
    let mut settings = settings();
    with_tls(&pem)(&mut settings);
    settings.tls_listen = vec![addr("127.0.0.1:0")];
    settings.relay.ports = PORTS;
    settings.relay.lifetimes.allocation_default = LIFETIME;
    settings.relay.lifetimes.allocation_max = LIFETIME;
    let gate = Gate::new(CLIENTS, CLIENTS, true);
    let (handle, _media, registry) = start_settings(&settings, Arc::clone(&gate));
    let (plain, tls) = (handle.addresses()[0], handle.tls_addresses()[0]);
    // Kept, so that no port is given to a second client: with the first one's allocation still there, it would inherit it.
    let vanished = Mutex::new(Vec::new());
    let visits = AtomicUsize::new(0);
    let visit = |client: usize| match client % 3 {
        0 => {
            let mut link = udp_socket();
            link.connect(plain).expect("connected");
            relays_to_a_peer(&mut link);
            vanished.lock().expect("no thread panics with it").push(link);
        }
        1 => relays_to_a_peer(&mut Stream(connect(plain))),
        _ => relays_to_a_peer(&mut Stream(secure(tls, pem.client(&[])).expect("trusted"))),
    };
    let end = Instant::now() + SEASON;
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (visit, visits) = (&visit, &visits);
            scope.spawn(move || {
                while Instant::now() < end {
                    visit(client);
                    visits.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PAUSE);
                }
            });
        }
    });
    assert!(relay_sockets() > 0, "those of UDP clients, who have not said that they are gone");
    until("an allocation", || allocations(&registry) == 0);
    until("a relay socket", || relay_sockets() == 0);
    until("a connection", || gate.total() == 0);
    let text = registry.encode();
    let relayed = |transport: &str| -> usize {
        let prefix = format!("causeway_turn_relayed_bytes_total{{to=\"peer\",transport=\"{transport}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&*prefix));
        line.expect("it is registered").parse().expect("a number")
    };
    let visits = visits.into_inner();
    assert!(visits >= 3 * CLIENTS, "they came {visits} times");
    let bytes = visits * (b"by indication".len() + b"by channel".len());
    let all = ["udp", "tcp", "tls"].map(relayed);
    assert!(
        all.iter().sum::<usize>() == bytes && !all.contains(&0),
        "each of them relayed: {all:?} of {bytes}"
    );
}
