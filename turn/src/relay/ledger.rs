//! What the relay's workers hold together: ports, quotas, reservations, and the secrets that must be the same at each.
//!
//! Workers share nothing else. It is asked when something is allocated, given back or challenged, never for a packet of a
//! known route: ports are one atomic byte each, users and reservations are behind a lock. Whatever is here is entered under
//! the worker that holds it, so that a worker which has died can be forgotten in one call.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore, SeedableRng};

use super::addresses::{Family, Protocol, RelayIps, RelayedAddr};
use super::bandwidth::Capacity;
use super::reservations::Token;
use crate::auth::StrangerLimit;
use crate::settings::RelayConfig;
use crate::stun::attributes::ErrorCode;

/// Workers of one relay, as many as coturn allows. A port's owner is a byte.
pub const WORKERS_MAX: usize = 128;

/// One of the relay's workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkerId(pub u8);

impl WorkerId {
    /// As an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The ledger of one relay.
#[derive(Debug)]
pub struct Ledger {
    workers: u8,
    ips: RelayIps,
    /// By [`Self::slot`]: 0, or the owner's number and one.
    ports: Box<[AtomicU8]>,
    user_quota: usize,
    total_quota: usize,
    books: Mutex<Books>,
    /// By worker.
    allocations: Box<[AtomicUsize]>,
    pub(super) capacity: Arc<Capacity>,
    pub(super) strangers: StrangerLimit,
    pub(super) nonce_secret: [u8; 32],
}

/// Who holds how much.
#[derive(Debug, Default)]
struct Books {
    /// Allocations and reservations.
    total: usize,
    per_user: BTreeMap<Arc<str>, usize>,
    /// The same by worker.
    of_worker: Vec<BTreeMap<Arc<str>, usize>>,
    reserved: BTreeMap<Token, Reserved>,
}

/// A port that waits for its RESERVATION-TOKEN.
#[derive(Debug)]
struct Reserved {
    relayed: RelayedAddr,
    /// Who may redeem it, as quotas count users.
    user: Arc<str>,
    /// Whose socket it is.
    worker: WorkerId,
}

impl Ledger {
    /// A new one; `workers` is at least 1 and at most [`WORKERS_MAX`].
    pub fn new(config: &RelayConfig, workers: usize, seed: [u8; 32], now: Instant) -> Arc<Self> {
        Self::with_rng(config, workers, &mut ChaCha12Rng::from_seed(seed), now)
    }

    pub(super) fn with_rng(
        config: &RelayConfig,
        workers: usize,
        rng: &mut ChaCha12Rng,
        now: Instant,
    ) -> Arc<Self> {
        let workers = workers.clamp(1, WORKERS_MAX);
        let mut nonce_secret = [0; 32];
        rng.fill_bytes(&mut nonce_secret);
        let ips = RelayIps::new(&config.relay_ips, config.ports.clone());
        let hosts: usize = Family::ALL.iter().map(|family| ips.of(*family).len()).sum();
        let ports = (0..hosts * 2 * config.ports.len()).map(|_| AtomicU8::new(0)).collect();
        Arc::new(Self {
            workers: workers as u8,
            ips,
            ports,
            user_quota: config.user_quota,
            total_quota: config.total_quota,
            books: Mutex::new(Books { of_worker: vec![BTreeMap::new(); workers], ..Books::default() }),
            allocations: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            capacity: Arc::new(Capacity::new(config.bps_capacity, now)),
            strangers: StrangerLimit::new(config.stranger_answers_per_second, rng.next_u64(), now),
            nonce_secret,
        })
    }

    /// How many workers there are.
    pub fn workers(&self) -> u8 {
        self.workers
    }

    /// The worker that has a port.
    pub fn owner(&self, relayed: RelayedAddr) -> Option<WorkerId> {
        self.slot(relayed)?.load(Ordering::Acquire).checked_sub(1).map(WorkerId)
    }

    /// The worker that has the UDP port at this address, as it is bound or shown.
    pub fn owner_of_address(&self, address: SocketAddr) -> Option<WorkerId> {
        self.ips.named(address, Protocol::Udp).find_map(|relayed| self.owner(relayed))
    }

    /// Allocations of one worker.
    pub fn allocations_of(&self, worker: WorkerId) -> usize {
        self.allocations.get(worker.index()).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Gives back everything that a worker held: the number of its allocations.
    pub fn forget(&self, worker: WorkerId) -> usize {
        let mut books = self.books();
        books.reserved.retain(|_, reserved| reserved.worker != worker);
        let gone = std::mem::take(&mut books.of_worker[worker.index()]);
        for (user, count) in gone {
            books.leave(&user, count);
        }
        drop(books);
        for port in &self.ports {
            // A port that is another's stays so.
            let _ = port.compare_exchange(worker.0 + 1, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
        self.allocations[worker.index()].swap(0, Ordering::Relaxed)
    }

    /// Makes a port this worker's; `false` when it is somebody's, or none of ours.
    pub(super) fn claim(&self, worker: WorkerId, relayed: RelayedAddr) -> bool {
        self.slot(relayed).is_some_and(|port| {
            port.compare_exchange(0, worker.0 + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// Gives a port back, if it is this worker's.
    pub(super) fn release(&self, worker: WorkerId, relayed: RelayedAddr) {
        if let Some(port) = self.slot(relayed) {
            let _ = port.compare_exchange(worker.0 + 1, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    pub(super) fn count_allocation(&self, worker: WorkerId) {
        self.allocations[worker.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn uncount_allocation(&self, worker: WorkerId) {
        self.allocations[worker.index()].fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one more allocation of a user, if the quotas allow it.
    pub(super) fn admit(&self, worker: WorkerId, user: &str) -> Result<(), ErrorCode> {
        let mut books = self.books();
        let used = books.per_user.get(user).copied().unwrap_or(0);
        if self.user_quota != 0 && used >= self.user_quota {
            return Err(ErrorCode::ALLOCATION_QUOTA_REACHED);
        }
        if self.total_quota != 0 && books.total >= self.total_quota {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        books.enter(worker, user);
        Ok(())
    }

    /// An allocation of a user has ended, or has not come about.
    pub(super) fn leave(&self, worker: WorkerId, user: &str) {
        self.books().leave_worker(worker, user);
    }

    /// Keeps a port of this worker for its user, and counts it.
    pub(super) fn reserve(&self, worker: WorkerId, relayed: RelayedAddr, token: Token, user: &str) {
        let mut books = self.books();
        let user = books.enter(worker, user);
        books.reserved.insert(token, Reserved { relayed, user, worker });
    }

    /// The port behind a token of this user, which is this worker's from now on, and the worker that has its socket.
    pub(super) fn redeem(&self, by: WorkerId, token: Token, user: &str) -> Option<(RelayedAddr, WorkerId)> {
        let mut books = self.books();
        if *books.reserved.get(&token)?.user != *user {
            return None;
        }
        let Reserved { relayed, worker, .. } = books.reserved.remove(&token)?;
        if worker != by {
            books.leave_worker(worker, user);
            books.enter(by, user);
            self.slot(relayed)?.store(by.0 + 1, Ordering::Release);
        }
        Some((relayed, worker))
    }

    /// Ends a reservation that nobody has redeemed, and gives its port back; `false` when somebody has.
    pub(super) fn expire(&self, worker: WorkerId, token: Token) -> bool {
        let mut books = self.books();
        let Some(Reserved { relayed, user, .. }) = books.reserved.remove(&token) else { return false };
        books.leave_worker(worker, &user);
        self.release(worker, relayed);
        true
    }

    pub(super) fn users(&self) -> usize {
        self.books().per_user.len()
    }

    pub(super) fn reservations(&self) -> usize {
        self.books().reserved.len()
    }

    /// What is behind the lock is sound after each of its short steps, even if one of them has panicked.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, relayed: RelayedAddr) -> Option<&AtomicU8> {
        let host = usize::from(relayed.host);
        if !self.ips.ports.contains(&relayed.port) || host >= self.ips.of(relayed.family).len() {
            return None;
        }
        let before = if relayed.family == Family::V6 { self.ips.of(Family::V4).len() } else { 0 };
        let row = 2 * (before + host) + relayed.protocol as usize;
        let port = usize::from(relayed.port - self.ips.ports.start());
        self.ports.get(row * self.ips.ports.len() + port)
    }
}

impl Books {
    fn enter(&mut self, worker: WorkerId, user: &str) -> Arc<str> {
        let known = self.per_user.get_key_value(user).map(|(name, _)| Arc::clone(name));
        let name = known.unwrap_or_else(|| user.into());
        *self.per_user.entry(Arc::clone(&name)).or_default() += 1;
        *self.of_worker[worker.index()].entry(Arc::clone(&name)).or_default() += 1;
        self.total += 1;
        name
    }

    fn leave_worker(&mut self, worker: WorkerId, user: &str) {
        // A worker that was forgotten has nothing left to give back.
        if take(&mut self.of_worker[worker.index()], user, 1) {
            self.leave(user, 1);
        }
    }

    fn leave(&mut self, user: &str, count: usize) {
        take(&mut self.per_user, user, count);
        self.total = self.total.saturating_sub(count);
    }
}

/// Takes from a user's count, and the user out with the last; `false` when nothing was there.
fn take(counts: &mut BTreeMap<Arc<str>, usize>, user: &str, count: usize) -> bool {
    let Some(held) = counts.get_mut(user) else { return false };
    *held = held.saturating_sub(count);
    if *held == 0 {
        counts.remove(user);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: WorkerId = WorkerId(0);
    const B: WorkerId = WorkerId(1);

    fn ledger(change: impl FnOnce(&mut RelayConfig)) -> Arc<Ledger> {
        let mut config = RelayConfig { ports: 50_000..=50_009, ..RelayConfig::default() };
        change(&mut config);
        Ledger::new(&config, 2, [1; 32], Instant::now())
    }

    fn at(port: u16) -> RelayedAddr {
        RelayedAddr::udp(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[test]
    fn a_port_has_one_owner() {
        let ledger = ledger(|_| {});
        assert!(ledger.claim(A, at(50_000)) && !ledger.claim(B, at(50_000)) && !ledger.claim(A, at(50_000)));
        assert!(!ledger.claim(A, at(49_999)) && !ledger.claim(A, at(50_010)), "none of ours");
        let tcp = RelayedAddr { protocol: Protocol::Tcp, ..at(50_000) };
        assert!(ledger.claim(B, tcp), "another socket");
        assert!(!ledger.claim(A, RelayedAddr { host: 1, ..at(50_000) }), "there is one address");
        ledger.release(B, at(50_000));
        assert_eq!(ledger.owner(at(50_000)), Some(A), "not B's to give back");
        assert_eq!(ledger.owner_of_address(SocketAddr::from(([127, 0, 0, 1], 50_000))), Some(A));
        ledger.release(A, at(50_000));
        assert_eq!((ledger.owner(at(50_000)), ledger.owner(tcp)), (None, Some(B)));
    }

    #[test]
    fn quotas_hold_over_the_sum_of_the_workers() {
        let ledger = ledger(|config| (config.user_quota, config.total_quota) = (2, 3));
        assert_eq!(ledger.admit(A, "ann"), Ok(()));
        assert_eq!(ledger.admit(B, "ann"), Ok(()));
        assert_eq!(ledger.admit(B, "ann"), Err(ErrorCode::ALLOCATION_QUOTA_REACHED));
        assert_eq!(ledger.admit(B, "bob"), Ok(()));
        assert_eq!(ledger.admit(A, "bob"), Err(ErrorCode::INSUFFICIENT_CAPACITY));
        ledger.leave(B, "ann");
        assert_eq!(ledger.admit(A, "bob"), Ok(()));
    }

    #[test]
    fn a_token_is_good_for_its_user_once_at_any_worker() {
        let ledger = ledger(|config| config.user_quota = 1);
        assert!(ledger.claim(A, at(50_001)));
        ledger.reserve(A, at(50_001), [7; 8], "ann");
        assert_eq!(ledger.redeem(B, [7; 8], "bob"), None);
        assert_eq!(ledger.redeem(B, [8; 8], "ann"), None);
        assert_eq!(ledger.redeem(B, [7; 8], "ann"), Some((at(50_001), A)));
        assert_eq!(ledger.owner(at(50_001)), Some(B));
        assert_eq!(ledger.redeem(B, [7; 8], "ann"), None);
        assert!(!ledger.expire(A, [7; 8]));
        assert_eq!(ledger.admit(A, "ann"), Err(ErrorCode::ALLOCATION_QUOTA_REACHED), "it is B's now");
        assert_eq!((ledger.forget(A), ledger.users()), (0, 1));
        ledger.forget(B);
        assert_eq!((ledger.users(), ledger.owner(at(50_001))), (0, None));
    }

    #[test]
    fn a_worker_that_died_holds_nothing() {
        let ledger = ledger(|config| config.total_quota = 3);
        for worker in [A, B, B] {
            assert_eq!(ledger.admit(worker, "ann"), Ok(()));
            ledger.count_allocation(worker);
        }
        assert!(ledger.claim(A, at(50_000)) && ledger.claim(B, at(50_001)));
        assert_eq!(ledger.forget(B), 2);
        assert_eq!((ledger.owner(at(50_000)), ledger.owner(at(50_001))), (Some(A), None));
        assert_eq!([ledger.admit(A, "bob"), ledger.admit(B, "bob")], [Ok(()), Ok(())]);
        assert!(ledger.admit(A, "bob").is_err());
        ledger.leave(B, "ann");
        assert!(ledger.admit(A, "bob").is_err(), "what is forgotten is not given back again");
    }
}
