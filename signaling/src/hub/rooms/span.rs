//! Rooms that span workers: what is published on one is brought to another when somebody there wants it, and a worker that
//! fails takes along only those who are on it.
//!
//! Each worker that has somebody of the room has opened it. What nobody would ask for again if a full queue swallowed it (exports,
//! imports and their ends) is offered again by `backlog`.

use common::control::{Imported, PublishedId};
use common::ids::TransportId;

use super::*;

impl Hub {
    /// Before a subscriber asks its worker for what somebody publishes: it has to be there.
    pub(super) fn bring(&mut self, id: &RoomId, subscriber: &PeerId, wanted: PublishedId) {
        let name = self.next_pipe;
        let Some(room) = self.rooms.get_mut(id) else { return };
        let Some(to) = room.peers.get(subscriber).map(|member| member.worker) else { return };
        let found = match &wanted {
            PublishedId::Media(producer) => room.producers.get_mut(producer).map(|published| {
                let (kind, paused) = (published.kind, published.paused);
                let imported =
                    Imported::Media { id: producer.clone(), kind, rtp: published.rtp.clone(), paused };
                (&published.peer, &mut published.pipe, imported)
            }),
            PublishedId::Data(producer) => room.data_producers.get_mut(producer).map(|published| {
                let (id, sctp) = (producer.clone(), published.sctp.clone());
                let (label, protocol) = (published.label.clone(), published.protocol.clone());
                (&published.peer, &mut published.pipe, Imported::Data { id, sctp, label, protocol })
            }),
        };
        let Some((publisher, pipe, imported)) = found else { return };
        let Some(from) = room.peers.get(publisher).map(|member| member.worker) else { return };
        if from == to || !pipe.to.insert(to) {
            return;
        }
        let publisher = publisher.clone();
        let pipe = *pipe.name.get_or_insert(name);
        self.next_pipe += 1;
        let published = Box::new(imported);
        self.command_to(to, id, &publisher, Action::Import { pipe, from, published }, Pending::Nothing);
        let export = Action::Export { published: wanted, pipe, to };
        self.command_to(from, id, &publisher, export, Pending::Nothing);
    }

    /// What was brought to other workers is no longer published.
    pub(super) fn take_back(&mut self, id: &RoomId, peer: &PeerId, published: &PublishedId, pipe: &Pipe) {
        for worker in &pipe.to {
            let action = Action::CloseImport { published: published.clone() };
            self.command_to(*worker, id, peer, action, Pending::Nothing);
        }
    }

    /// Closes the room on workers where nobody is any more; nothing needs to be brought there. `peer` fills the place of
    /// somebody who asks.
    pub(super) fn leave_workers(&mut self, id: &RoomId, peer: &PeerId) {
        let Some(room) = self.rooms.get_mut(id) else { return };
        let used: BTreeSet<usize> = room.peers.values().map(|member| member.worker).collect();
        let unused: Vec<usize> = room.workers.difference(&used).copied().collect();
        if unused.is_empty() {
            return;
        }
        room.workers = used;
        let media = room.producers.iter_mut().map(|(id, published)| {
            (PublishedId::Media(id.clone()), published.peer.clone(), &mut published.pipe)
        });
        let data = room.data_producers.iter_mut().map(|(id, published)| {
            (PublishedId::Data(id.clone()), published.peer.clone(), &mut published.pipe)
        });
        let mut ends = Vec::new();
        for (published, peer, pipe) in media.chain(data) {
            for worker in unused.iter().filter(|worker| pipe.to.remove(worker)) {
                ends.push((peer.clone(), Action::EndExport { published: published.clone(), to: *worker }));
            }
        }
        for (publisher, end) in ends {
            self.command(id, &publisher, end, Pending::Nothing);
        }
        for worker in unused {
            self.command_to(worker, id, peer, Action::CloseRoom, Pending::Nothing);
        }
    }

    /// A worker has failed. Those who were on it are told of what they have lost; the others only see them leave.
    pub(super) fn lose_members(&mut self, id: &RoomId, worker: usize) {
        let Some(room) = self.rooms.get_mut(id) else { return };
        let everybody = std::mem::take(&mut room.peers);
        let (lost, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            everybody.into_iter().partition(|(_, member)| member.worker == worker);
        room.peers = kept;
        for member in lost.values().filter(|member| member.joined) {
            self.tell_of_loss(&member.session, &member.transports);
        }
        for peer in lost.keys() {
            self.give_up_pending(id, Some(peer));
        }
        for (peer, member) in &lost {
            self.forget_peer(id, peer, member, "failed");
        }
    }

    fn tell_of_loss(&mut self, session: &SessionId, transports: &BTreeSet<TransportId>) {
        if transports.is_empty() {
            self.send(session, &json!({ "type": "room-closed", "reason": "failed" }));
        }
        for id in transports {
            let told = json!({ "type": "transport-closed", "transportId": id, "reason": "worker-failed" });
            self.send(session, &told);
        }
    }
}
