//! Requests of clients: who may ask, what is answered here, and what media is asked (`docs/protocol.md` §3).

use common::control::PublishedId;

use super::*;
use crate::hub::session::STATS_COST;

impl Hub {
    pub(in crate::hub) fn request(&mut self, session: &SessionId, message: &Value) {
        let request_id = message.get("requestId").filter(|id| crate::hub::is_short(id)).cloned();
        let Some(request_id) = request_id else {
            let refusal = Refusal::new("invalid-message", "Invalid message format: requestId is missing");
            return self.refuse(session, refusal, message);
        };
        let parsed = serde_json::from_value::<RoomRequest>(message.clone())
            .map_err(|error| Refusal::new("invalid-message", format!("Invalid message format: {error}")));
        let done = parsed.and_then(|request| self.handle_request(session, &request_id, request));
        match done {
            Ok(Some(data)) => self.respond(session, &request_id, Ok(data)),
            Ok(None) => {}
            Err(refusal) => self.respond(session, &request_id, Err(refusal)),
        }
    }

    pub(super) fn respond(
        &mut self,
        session: &SessionId,
        request_id: &Value,
        result: Result<Value, Refusal>,
    ) {
        if let Err(refusal) = &result {
            self.count(refusal);
        }
        let response = match result {
            Ok(data) => json!({ "type": "response", "requestId": request_id, "ok": true, "data": data }),
            Err(refusal) => json!({
                "type": "response", "requestId": request_id, "ok": false,
                "error": refusal.error, "code": refusal.code,
            }),
        };
        self.send(session, &response);
    }

    /// `Some` is answered at once; `None` when media answers.
    fn handle_request(
        &mut self,
        session: &SessionId,
        request_id: &Value,
        request: RoomRequest,
    ) -> Result<Option<Value>, Refusal> {
        match request {
            RoomRequest::JoinRoom { room_id, name, create } => {
                self.join(session, request_id, room_id, name, create).map(|()| None)
            }
            RoomRequest::LeaveRoom {} => {
                self.leave_room(session, "left");
                Ok(Some(json!({})))
            }
            RoomRequest::MutePeer { .. } | RoomRequest::RemovePeer { .. } | RoomRequest::CloseRoom {} => {
                self.moderate(session, request_id, request)
            }
            media => self.media_request(session, request_id, media).map(|()| None),
        }
    }

    fn media_request(
        &mut self,
        session: &SessionId,
        request_id: &Value,
        request: RoomRequest,
    ) -> Result<(), Refusal> {
        let (room, peer) = self.place(session)?;
        let waiting = self
            .pending
            .values()
            .filter(|pending| matches!(pending, Pending::Request { session: waits, .. } if waits == session));
        if waiting.count() >= PENDING_MAX {
            return Err(Refusal::new("rate-limited", "Too many requests at once").beyond("pending-requests"));
        }
        if matches!(request, RoomRequest::GetStats { .. }) && !self.charge(session, STATS_COST) {
            return Err(Refusal::new("rate-limited", "Too many statistics at once").beyond("message-rate"));
        }
        let claims = self.sessions.get(session).map(|session| &session.claims);
        let (publish, subscribe) = claims.map_or((false, false), |claims| (claims.publish, claims.subscribe));
        let allowed = match request {
            RoomRequest::Produce { .. } | RoomRequest::ProduceData { .. } => publish,
            RoomRequest::Consume { .. } | RoomRequest::ConsumeData { .. } => subscribe,
            _ => true,
        };
        if !allowed {
            return Err(forbidden());
        }
        // What is closed has been announced before.
        let announces = matches!(
            request,
            RoomRequest::Produce { .. }
                | RoomRequest::ProduceData { .. }
                | RoomRequest::PauseProducer { .. }
                | RoomRequest::ResumeProducer { .. }
        );
        if announces && !self.may_announce(session) {
            let refusal = Refusal::new("rate-limited", "Too much for the others in the room");
            return Err(refusal.beyond("announcements"));
        }
        let (action, then) = actions::action_of(request, &peer)?;
        match &action {
            Action::Consume { producer, .. } => {
                self.bring(&room, &peer, PublishedId::Media(producer.clone()));
            }
            Action::ConsumeData { data_producer, .. } => {
                self.bring(&room, &peer, PublishedId::Data(data_producer.clone()));
            }
            _ => {}
        }
        let pending = Pending::Request {
            session: session.clone(),
            room: room.clone(),
            peer: peer.clone(),
            request_id: request_id.clone(),
            then,
        };
        self.command(&room, &peer, action, pending);
        Ok(())
    }
}
