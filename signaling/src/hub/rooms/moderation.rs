//! What administrators may do, in a room (`docs/protocol.md` §3) and from outside (§4).

use super::*;
use crate::hub::{AdminError, AdminRequest, AdminResult};

impl Hub {
    pub(super) fn moderate(
        &mut self,
        session: &SessionId,
        request_id: &Value,
        request: RoomRequest,
    ) -> Result<Option<Value>, Refusal> {
        let (room, by) = self.place(session)?;
        if !self.sessions.get(session).is_some_and(|session| session.claims.admin) {
            return Err(forbidden());
        }
        match request {
            RoomRequest::CloseRoom {} => self.close_room(&room, "closed"),
            RoomRequest::RemovePeer { peer_id, reason } => {
                let reason: String =
                    reason.unwrap_or_else(|| "removed".into()).chars().take(TEXT_BYTES_MAX).collect();
                self.send_away(&room, &peer_id, by.as_str(), &reason)
                    .map_err(|error| Refusal::new(error.code(), error.to_string()))?;
            }
            RoomRequest::MutePeer { peer_id, producer_id } => {
                let theirs = self.rooms.get(&room).and_then(|room| room.producers.get(&producer_id));
                if theirs.is_none_or(|published| published.peer != peer_id) {
                    return Err(MediaError::ProducerNotFound.into());
                }
                let pending = Pending::Request {
                    session: session.clone(),
                    room: room.clone(),
                    peer: peer_id.clone(),
                    request_id: request_id.clone(),
                    then: Then::Muted { producer: producer_id.clone(), by },
                };
                self.command(&room, &peer_id, Action::PauseProducer { producer: producer_id }, pending);
                return Ok(None);
            }
            _ => {}
        }
        Ok(Some(json!({})))
    }

    fn send_away(&mut self, room: &RoomId, peer: &PeerId, by: &str, reason: &str) -> Result<(), AdminError> {
        let found = self.rooms.get(room).ok_or(AdminError::RoomNotFound)?;
        if !found.peers.contains_key(peer) {
            return Err(AdminError::PeerNotFound);
        }
        self.tell(room, peer, &json!({ "type": "removed", "by": by, "reason": reason }));
        self.remove_peer(room, peer, "removed");
        Ok(())
    }

    pub(in crate::hub) fn admin(&mut self, request: AdminRequest) -> AdminResult {
        match request {
            AdminRequest::Rooms => {
                let rooms: Vec<Value> = self
                    .rooms
                    .iter()
                    .map(|(id, room)| json!({ "roomId": id, "peers": room.peers.len(), "producers": room.producers.len() }))
                    .collect();
                Ok(json!({ "rooms": rooms }))
            }
            AdminRequest::Room(id) => {
                let room = self.rooms.get(&id).ok_or(AdminError::RoomNotFound)?;
                let producers: Vec<Value> = room.producers.iter().map(|(id, of)| of.json(id)).collect();
                Ok(json!({ "roomId": id, "peers": room.peers_json(None), "producers": producers }))
            }
            AdminRequest::CloseRoom { room, .. } => {
                if !self.rooms.contains_key(&room) {
                    return Err(AdminError::RoomNotFound);
                }
                self.close_room(&room, "closed");
                Ok(Value::Null)
            }
            AdminRequest::RemovePeer { room, peer, by } => {
                self.send_away(&room, &peer, by.as_str(), "removed").map(|()| Value::Null)
            }
        }
    }
}
