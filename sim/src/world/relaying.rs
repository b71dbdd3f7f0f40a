//! The relay in the world: its outputs carried out, its promises watched, its users and their peers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use turn::relay as relay_core;

use super::{LATE_PACE, PARTING, STRANGERS_MAX, World};
use crate::node::{SERVER, TURN};
use crate::oracle::broken;
use crate::relay_user::nonce_of;

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
                !self.relay_users.iter().any(|user| user.address == client.remote)
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
                    self.send_down(TURN, client.remote, data);
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
                | relay_core::Output::Timeout(_) => {}
            }
        }
    }

    /// What the relay says it grants, by whatever path the answer then takes.
    fn grant_if_told(&mut self, client: &relay_core::ClientAddr, answer: &[u8]) {
        use turn::stun::header::{Class, Method};
        let Some(user) = self.relay_users.iter().find(|user| user.address == client.remote) else { return };
        let Ok(message) = turn::stun::Message::parse(answer) else { return };
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
                self.send_down(TURN, client.remote, data);
            }
            relay_core::Destination::Media { .. } => {
                self.judge(broken("isolation", "the relay reached media that it was not told of"));
            }
        }
    }

    pub(super) fn reaches_relay_people(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        let now = self.now;
        if let Some(user) = self.relay_users.iter_mut().find(|user| user.address == to) {
            user.receive(now, data);
        } else if self.relay_users.iter().any(|user| user.peer == to) && data == b"ping" {
            self.send_up(to, from, b"pong".to_vec());
        }
    }

    pub(super) fn poll_relay_users(&mut self) {
        let pace = if self.now > PARTING { LATE_PACE } else { Duration::from_millis(100) };
        for index in 0..self.relay_users.len() {
            let user = &mut self.relay_users[index];
            let from = user.address;
            for data in user.poll(self.now, pace) {
                self.send_up(from, TURN, data);
            }
        }
    }
}
