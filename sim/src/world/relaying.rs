//! The relay in the world: its outputs carried out, its promises watched, its users and their peers.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use turn::relay as relay_core;
use turn::stun::attributes::Kind as Attribute;

use super::{Event, LATE_PACE, PARTING, STRANGERS_MAX, World};
use crate::dice::Dice;
use crate::epoch::UNIX_START;
use crate::nat::{Dependence, Nat};
use crate::node::{SERVER, TURN, USER_QUOTA};
use crate::oracle::broken;
use crate::plan::Kind;
use crate::relay_user::{CREDENTIALS_SECS, RelayUser, Way, answer, nonce_of};

impl World {
    pub(super) fn relay(&mut self, input: relay_core::Input<'_>) {
        self.relay_with(input, &[]);
    }

    pub(super) fn relay_with(&mut self, input: relay_core::Input<'_>, data: &[u8]) {
        let at = self.node.clock.read(self.now);
        let relayed_by = match input {
            relay_core::Input::FromPeer { relayed, peer, .. } => Some((relayed, peer)),
            _ => None,
        };
        let stranger = match input {
            relay_core::Input::FromClient { client, .. } => {
                !self.relay_users.iter().chain(&self.greedy).any(|user| user.is_at(client.remote))
            }
            _ => false,
        };
        let allocations = self.node.relay.allocations();
        let mut outputs = VecDeque::with_capacity(64);
        let relay = &mut self.node.relay;
        let kept = allocation_counter::measure(|| {
            relay.handle_input(at, input);
            loop {
                match relay.poll_output() {
                    relay_core::Output::Timeout(_) => break,
                    output => outputs.push_back(output),
                }
            }
        });
        if stranger {
            let answers = outputs.iter().map(|output| match output {
                relay_core::Output::Reply { data, .. } => data.capacity() as i64,
                _ => 0,
            });
            self.kept_of_strangers += kept.bytes_current - answers.sum::<i64>();
            self.nothing_grows("the relay", self.kept_of_strangers);
        }
        if stranger && self.node.relay.allocations() > allocations {
            self.judge(broken("stranger", "somebody without a password was given an allocation"));
        }
        while let Some(output) = outputs.pop_front() {
            match output {
                relay_core::Output::Reply { client, data } => {
                    self.grant_if_told(&client, &data);
                    if stranger
                        && self.strangers.len() < STRANGERS_MAX
                        && let Some(nonce) = nonce_of(&data)
                    {
                        self.strangers.push_back((client.remote, nonce));
                    }
                    self.down_to_client(&client, data);
                }
                relay_core::Output::Forward { to, payload } => {
                    self.forward(to, &data[payload], relayed_by);
                }
                relay_core::Output::OpenRelay { relayed, .. } => {
                    let input = if self.bound_ports.insert(relayed) {
                        relay_core::Input::RelayBound { relayed }
                    } else {
                        relay_core::Input::RelayBindFailed { relayed }
                    };
                    self.relay(input);
                }
                relay_core::Output::CloseRelay { relayed } => {
                    self.bound_ports.remove(&relayed);
                    self.permissions.closed(relayed);
                }
                relay_core::Output::ConnectPeer { .. }
                | relay_core::Output::KeepPeer { .. }
                | relay_core::Output::Splice { .. }
                | relay_core::Output::ClosePeer { .. }
                | relay_core::Output::FetchRelay { .. } // it works alone
                | relay_core::Output::Timeout(_) => {}
            }
        }
    }

    /// What the relay says it grants, by whatever path the answer then takes.
    fn grant_if_told(&mut self, client: &relay_core::ClientAddr, answer: &[u8]) {
        use turn::stun::header::{Class, Method};
        let Ok(message) = turn::stun::Message::parse(answer) else { return };
        if message.xor_address(Attribute::XOR_MAPPED_ADDRESS).is_some_and(|mapped| mapped != client.remote) {
            self.judge(broken("mapped", format!("{} is told another address", client.remote)));
        }
        let Some(user) = self.relay_users.iter().find(|user| user.is_at(client.remote)) else { return };
        let wall = self.node.wall(self.now).as_secs();
        if message.class() == Class::Success && message.method() == Method::ALLOCATE && user.expires < wall {
            let late = wall - user.expires;
            self.judge(broken(
                "expired",
                format!("{} allocates {late} s after its credentials", client.remote),
            ));
            return;
        }
        let grants = [Method::CREATE_PERMISSION, Method::CHANNEL_BIND].contains(&message.method());
        if message.class() == Class::Success
            && grants
            && let Some(relayed) = user.relayed
        {
            let port = relay_core::RelayedAddr::udp(relayed);
            self.permissions.granted(self.node.clock.elapsed(self.now), port, user.peer.ip());
        }
    }

    fn forward(
        &mut self,
        to: relay_core::Destination,
        payload: &[u8],
        from_peer: Option<(relay_core::RelayedAddr, SocketAddr)>,
    ) {
        match to {
            relay_core::Destination::Peer { from, peer } => {
                let verdict = self.permissions.passed(self.node.clock.elapsed(self.now), from, peer.ip());
                self.judge(verdict);
                self.send_down(SocketAddr::new(SERVER, from.port), peer, payload.to_vec());
            }
            relay_core::Destination::Client { client, prefix, padding } => {
                if let Some((port, peer)) = from_peer {
                    let verdict = self.permissions.passed(self.node.clock.elapsed(self.now), port, peer.ip());
                    self.judge(verdict);
                }
                let mut data = prefix.to_vec();
                data.extend_from_slice(payload);
                data.resize(data.len() + padding, 0);
                self.down_to_client(&client, data);
            }
            relay_core::Destination::Worker { .. } | relay_core::Destination::Media { .. } => {
                self.judge(broken("isolation", "the relay reached media that it was not told of"));
            }
        }
    }

    fn down_to_client(&mut self, client: &relay_core::ClientAddr, data: Vec<u8>) {
        match client.transport {
            relay_core::Transport::Tcp(relay_core::ConnectionId(number)) => self.write(number, false, &data),
            _ => self.send_down(TURN, client.remote, data),
        }
    }

    pub(super) fn reaches_relay_people(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        let now = self.now;
        if let Some(user) = self.greedy.iter_mut().find(|user| user.is_at(to)) {
            user.receive(now, data);
            self.nobody_has_more_than_the_quota();
        } else if let Some(user) = self.relay_users.iter_mut().find(|user| user.is_at(to)) {
            let inside = match &user.nat {
                Some(nat) => nat.inbound(now, to.port(), from),
                None => Some(to),
            };
            if inside == Some(user.address) {
                user.receive(now, data);
            } else if inside.is_some()
                && inside == user.peer_inside
                && let Some(answer) = answer(data)
            {
                let outside = user.outside(now, user.peer_inside, from);
                self.send_up(outside, from, answer.to_vec());
            }
        } else if self.relay_users.iter().any(|user| user.peer == to)
            && let Some(answer) = answer(data)
        {
            self.send_up(to, from, answer.to_vec());
        }
    }

    pub(super) fn poll_relay_users(&mut self) {
        let pace = if self.now > PARTING { LATE_PACE } else { Duration::from_millis(100) };
        for index in 0..self.relay_users.len() {
            self.meet_the_peer(index);
            let user = &mut self.relay_users[index];
            let (over_tcp, from) = (user.tcp, user.address);
            for data in user.poll(self.now, pace) {
                if over_tcp {
                    let connection = self.connection(from, from, TURN);
                    self.write(connection, true, &data);
                    continue;
                }
                let outside = self.relay_users[index].outside(self.now, None, TURN);
                self.send_up(outside, TURN, data);
            }
        }
        for index in 0..self.greedy.len() {
            let from = self.greedy[index].address;
            for data in self.greedy[index].poll(self.now, pace) {
                self.capture(from, TURN, &data);
                let due = self.now + GREEDY_DELAY;
                self.at(due, Event::ToServer { from, to: TURN, data });
            }
        }
    }

    /// Puts a user of the relay behind a NAT, and its peer with it, where the plan says so.
    pub(super) fn settle(&mut self, user: &mut RelayUser, id: u16) {
        user.tcp = self.plan.is_over_tcp(&format!("relay user {id}"));
        if user.tcp || !self.plan.has(Kind::RelayNat) && !self.plan.has(Kind::Hairpin) {
            return;
        }
        let mut dice = Dice::new(self.plan.seed, &format!("relay nat {id}"));
        let (mapping, filtering) = (*dice.pick(&Dependence::ALL), *dice.pick(&Dependence::ALL));
        let nat = Nat::new(user.address.ip(), mapping, filtering, Duration::from_secs(30));
        user.nat = Some(nat.hairpinning(dice.chance(0.5)));
        user.address = SocketAddr::from(([10, 1, id as u8, 2], 4000));
        user.peer_inside =
            self.plan.has(Kind::Hairpin).then(|| SocketAddr::from(([10, 1, id as u8, 3], 7000)));
    }

    /// A peer behind the user's NAT sends to the relayed address, so that the NAT lets answers in, and the user hears where
    /// it is seen. Both also try the short way: by each other's outside address, through the NAT and back.
    fn meet_the_peer(&mut self, index: usize) {
        let (now, user) = (self.now, &mut self.relay_users[index]);
        let (Some(relayed), Some(peer), false) = (user.relayed, user.peer_inside, now < user.deadline())
        else {
            return;
        };
        let seen = user.outside(now, Some(peer), relayed);
        user.follow(seen);
        let (mapped, own) = (user.mapped, user.address);
        if let Some(nat) = &mut user.nat {
            let there = nat.hairpin(now, own, seen) == Some(peer);
            let back = mapped.is_some_and(|mapped| nat.hairpin(now, peer, mapped) == Some(own));
            self.summary.hairpinned += u64::from(there) + u64::from(back);
        }
        self.send_up(seen, relayed, b"punch".to_vec());
    }

    pub(crate) fn rebind_relay_user(&mut self, user: usize) {
        let users = self.relay_users.len().max(1);
        if let Some(nat) = self.relay_users.get_mut(user % users).and_then(|user| user.nat.as_mut()) {
            nat.rebind();
        }
    }

    /// Two accounts ask for an allocation from so many ports; nobody else's packets are lost for it.
    pub(crate) fn greed(&mut self, users: u16) {
        let expires = (UNIX_START + self.now).as_secs() + CREDENTIALS_SECS;
        for number in 0..users {
            let port = 5000 + 16 * (self.greedy.len() as u16);
            let name = if number % 3 == 0 { "greedier" } else { "greedy" };
            let (address, peer) = (SocketAddr::new(GREEDY, port), SocketAddr::from(([8, 8, 8, 8], 1)));
            let mut user = RelayUser::new(name, address, peer, Way::Indication, expires, &mut self.dice);
            user.idle = true;
            self.greedy.push(user);
        }
    }

    /// `quota`: nobody holds more allocations than one may.
    fn nobody_has_more_than_the_quota(&mut self) {
        for name in ["greedy", "greedier"] {
            let held =
                self.greedy.iter().filter(|user| user.is_called(name) && user.relayed.is_some()).count();
            if held > USER_QUOTA {
                self.judge(broken("quota", format!("{name} has {held} allocations")));
            }
        }
    }
}

/// Where the greedy ones are, on a path of their own that is always well.
pub(super) const GREEDY: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 115, 1));
pub(super) const GREEDY_DELAY: Duration = Duration::from_millis(10);
