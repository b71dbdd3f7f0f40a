//! What media says: its replies become answers and changes of the room, its events notifications (`docs/protocol.md` §3).

use common::control::{Event, EventKind, FromMedia, PublishedId};

use super::*;
use crate::hub::quality;

impl Hub {
    pub(in crate::hub) fn on_media(&mut self, worker: usize, message: FromMedia) {
        match message {
            FromMedia::Reply(reply) => self.reply(reply.token, reply.result),
            FromMedia::Event(event) => {
                let Some(room) = self.rooms.get(&event.room) else { return };
                // Every worker of a room elects a speaker among those whom it hears.
                let is_for_all = matches!(event.kind, EventKind::ActiveSpeaker(_));
                if room.workers.contains(&worker) && (!is_for_all || room.home() == Some(worker)) {
                    self.event(event);
                }
            }
            FromMedia::Load { busy_permille } => self.placement.measured(worker, busy_permille),
            FromMedia::Lost => {
                self.placement.measured(worker, 0);
                self.worker_lost(worker);
            }
        }
    }

    /// All rooms of a worker are gone. What it has not answered will not be; what still waits in its queue will, and comes
    /// to nothing.
    fn worker_lost(&mut self, worker: usize) {
        let on_it = self.rooms.iter().filter(|(_, room)| room.workers.contains(&worker));
        let lost: Vec<RoomId> = on_it.map(|(id, _)| id.clone()).collect();
        for id in &lost {
            self.lose_members(id, worker);
        }
        let rooms = &self.rooms;
        self.pending.retain(|_, pending| match pending {
            Pending::Nothing => false,
            Pending::Open(id) => rooms.contains_key(id),
            Pending::Request { .. } => true,
        });
    }

    pub(in crate::hub) fn reply(&mut self, token: Token, result: Result<Done, MediaError>) {
        match self.pending.remove(&token) {
            None | Some(Pending::Nothing) => {}
            Some(Pending::Open(id)) => match (result, self.rooms.get_mut(&id)) {
                (Ok(Done::Room { capabilities }), Some(room)) => room.capabilities = Some(capabilities),
                (Err(error), Some(room)) => room.refused = Some(error),
                _ => {}
            },
            Some(Pending::Request { session, room, peer, request_id, then }) => {
                let answer = match result {
                    Ok(done) => Ok(self.done(&session, &room, &peer, done, then)),
                    Err(error) if matches!(then, Then::Joined) => {
                        // A room that was not opened has no peers: the reason is the opening's.
                        let refused = self.rooms.get_mut(&room).and_then(|room| room.refused.take());
                        self.remove_peer(&room, &peer, "failed");
                        Err(refused.unwrap_or(error).into())
                    }
                    Err(error) => Err(error.into()),
                };
                self.respond(&session, &request_id, answer);
            }
        }
    }

    /// Media has done its part: ours, and what the client is told.
    fn done(&mut self, session: &SessionId, room: &RoomId, peer: &PeerId, done: Done, then: Then) -> Value {
        match then {
            Then::Joined => return self.joined(room, peer),
            Then::Published(published) => {
                if let Done::Producer { id } = &done {
                    let mut told = published.json(id);
                    told["type"] = json!("new-producer");
                    if let Some(room) = self.rooms.get_mut(room) {
                        room.producers.insert(id.clone(), *published);
                    }
                    self.notify(room, Some(peer), &told);
                }
            }
            Then::PublishedData(published) => {
                if let Done::DataProducer { id } = &done {
                    let mut told = published.json(id);
                    told["type"] = json!("new-data-producer");
                    if let Some(room) = self.rooms.get_mut(room) {
                        room.data_producers.insert(id.clone(), *published);
                    }
                    self.notify(room, Some(peer), &told);
                }
            }
            Then::Paused(producer, paused) => self.paused(room, peer, &producer, paused),
            Then::Muted { producer, by } => {
                self.paused(room, peer, &producer, true);
                self.tell(room, peer, &json!({ "type": "muted", "producerId": producer, "by": by }));
            }
            Then::Unpublished(producer) => self.unpublished(room, peer, &producer),
            Then::UnpublishedData(producer) => self.unpublished_data(room, peer, &producer),
            Then::Disconnected(transport) => self.disconnected(room, peer, &transport),
            Then::Nothing => {}
        }
        if let (Done::Transport(made), Some(member)) = (&done, self.member_mut(room, peer)) {
            member.transports.insert(made.id.clone());
        }
        self.data_of(session, room, done)
    }

    fn joined(&mut self, id: &RoomId, peer: &PeerId) -> Value {
        let Some(room) = self.rooms.get_mut(id) else { return json!({}) };
        if let Some(member) = room.peers.get_mut(peer) {
            member.joined = true;
        }
        let data = json!({
            "rtpCapabilities": room.capabilities, "peerId": peer, "peers": room.peers_json(Some(peer)),
            "producers": room.producers_json(peer), "dataProducers": room.data_producers_json(peer),
            "recording": false, "e2ee": room.e2ee,
        });
        let name = room.peers.get(peer).map(|member| member.name.clone());
        self.notify(id, Some(peer), &json!({ "type": "peer-joined", "peerId": peer, "name": name }));
        data
    }

    fn paused(&mut self, room: &RoomId, peer: &PeerId, producer: &ProducerId, paused: bool) {
        let entry = self.rooms.get_mut(room).and_then(|room| room.producers.get_mut(producer));
        let Some(published) = entry else { return };
        published.paused = paused;
        let kind = if paused { "producer-paused" } else { "producer-resumed" };
        let workers = published.pipe.to.clone();
        self.notify(room, Some(peer), &json!({ "type": kind, "producerId": producer, "peerId": peer }));
        for worker in workers {
            let action = Action::PauseImport { producer: producer.clone(), paused };
            self.command_to(worker, room, peer, action, Pending::Nothing);
        }
    }

    fn unpublished(&mut self, id: &RoomId, peer: &PeerId, producer: &ProducerId) {
        if let Some(published) = self.rooms.get_mut(id).and_then(|room| room.producers.remove(producer)) {
            self.take_back(id, peer, &PublishedId::Media(producer.clone()), &published.pipe);
            let told = json!({ "type": "producer-closed", "producerId": producer, "peerId": peer });
            self.notify(id, Some(peer), &told);
        }
    }

    fn unpublished_data(&mut self, id: &RoomId, peer: &PeerId, producer: &DataProducerId) {
        if let Some(published) = self.rooms.get_mut(id).and_then(|room| room.data_producers.remove(producer))
        {
            self.take_back(id, peer, &PublishedId::Data(producer.clone()), &published.pipe);
            let told = json!({ "type": "data-producer-closed", "dataProducerId": producer, "peerId": peer });
            self.notify(id, Some(peer), &told);
        }
    }

    fn disconnected(&mut self, room: &RoomId, peer: &PeerId, transport: &TransportId) {
        if let Some(member) = self.member_mut(room, peer) {
            member.transports.remove(transport);
        }
    }

    fn member_mut(&mut self, room: &RoomId, peer: &PeerId) -> Option<&mut Member> {
        self.rooms.get_mut(room)?.peers.get_mut(peer)
    }

    fn data_of(&self, session: &SessionId, room: &RoomId, done: Done) -> Value {
        match done {
            Done::Ok | Done::Room { .. } => json!({}),
            Done::Transport(made) => {
                let user = self.sessions.get(session).map(|session| &session.claims.sub);
                let ice = user.map(|user| self.config.ice.for_user(user, self.unix_now()));
                json!({
                    "id": made.id, "iceParameters": made.ice_parameters, "iceCandidates": made.ice_candidates,
                    "dtlsParameters": made.dtls_parameters, "sctpParameters": made.sctp_parameters,
                    "iceServers": ice,
                })
            }
            Done::Ice(ice) => json!({ "iceParameters": ice }),
            Done::Producer { id } => json!({ "id": id }),
            Done::DataProducer { id } => json!({ "id": id }),
            Done::Consumer(made) => {
                let published = self.rooms.get(room).and_then(|room| room.producers.get(&made.producer));
                json!({
                    "id": made.id, "producerId": made.producer, "peerId": published.map(|of| &of.peer),
                    "kind": made.kind, "rtpParameters": made.rtp, "type": made.consumer_type,
                    "producerPaused": made.producer_paused, "source": published.map(|of| &of.source),
                })
            }
            Done::DataConsumer(made) => json!({
                "id": made.id, "dataProducerId": made.data_producer, "sctpStreamParameters": made.sctp,
                "label": made.label, "protocol": made.protocol,
            }),
            Done::Stats(stats) => json!(stats),
        }
    }

    fn event(&mut self, event: Event) {
        let Event { room, peer, kind } = event;
        let told = match kind {
            EventKind::ProducerClosed(id) => return self.unpublished(&room, &peer, &id),
            EventKind::DataProducerClosed(id) => return self.unpublished_data(&room, &peer, &id),
            EventKind::Reception { loss, round_trip } => {
                return self.reception(&room, &peer, loss, round_trip);
            }
            EventKind::Downlink { available_bitrate, loss, round_trip } => {
                quality::downlink(available_bitrate, loss, round_trip)
            }
            EventKind::ConsumerClosed(id) => json!({ "type": "consumer-closed", "consumerId": id }),
            EventKind::DataConsumerClosed(id) => {
                json!({ "type": "data-consumer-closed", "dataConsumerId": id })
            }
            EventKind::ConsumerLayers { consumer, layers } => json!({
                "type": "consumer-layers", "consumerId": consumer,
                "spatialLayer": layers.map(|(spatial, _)| spatial),
                "temporalLayer": layers.map(|(_, temporal)| temporal),
            }),
            EventKind::LayersWanted { producer, spatial } => {
                json!({ "type": "producer-layers-wanted", "producerId": producer, "spatialLayer": spatial })
            }
            EventKind::ProducerScore { producer, scores } => {
                json!({ "type": "producer-score", "producerId": producer, "scores": scores })
            }
            EventKind::ConsumerScore { consumer, score, producer_score, producer_scores } => json!({
                "type": "consumer-score", "consumerId": consumer, "score": score,
                "producerScore": producer_score, "producerScores": producer_scores,
            }),
            EventKind::ActiveSpeaker(speaker) => {
                return self.notify(&room, None, &json!({ "type": "active-speaker", "peerId": speaker }));
            }
            EventKind::TransportClosed { transport, reason } => {
                self.disconnected(&room, &peer, &transport);
                json!({ "type": "transport-closed", "transportId": transport, "reason": reason })
            }
        };
        self.tell(&room, &peer, &told);
    }
}
