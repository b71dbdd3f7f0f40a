//! Calls between people, from ringing to hang-up (`docs/protocol.md` §2).
//!
//! Only members speak in a call, whoever they say they are; what a session may not do is told to it, never to others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use common::call_record::{CallRecord, CallType, Participant, QualitySummary};
use common::ids::{CallId, RoomId, SessionId, UserId};
use common::wall_clock::WallClock;
use serde_json::{Value, json};

use super::{Hub, Output, Refusal, Timer};
use crate::message::ClientMessage;

/// People rung by one message (protocol §2), and in one call.
const RECIPIENTS_MAX: usize = 32;
const MEMBERS_MAX: usize = 64;

/// People whose part in a call is remembered for the log; who would be one more is not rung.
const PARTICIPANTS_MAX: usize = 256;

/// Calls that one user may be in at once.
const CALLS_PER_USER_MAX: usize = 32;

/// Messages before their `call-initiate`: how many, and for how long (protocol §2).
const HELD_MAX: usize = 100;
const HELD_FOR: Duration = Duration::from_secs(3);

/// Calls of one user for which messages are held at once.
const HELD_CALLS_MAX: usize = 4;

/// What one session may have held, as JSON: two offers of the largest size, or a hundred candidates of 5 kB.
const HELD_BYTES_MAX: usize = 512 * 1024;

/// A client's own words about why it rejects, in characters.
const REASON_CHARS_MAX: usize = 200;

#[derive(Debug)]
pub(super) struct Call {
    record_id: String,
    kind: CallType,
    initiator: UserId,
    /// All its times are of one clock, even if the wall clock is set meanwhile.
    wall: WallClock,
    started_at: Duration,
    answered_at: Option<Duration>,
    members: BTreeMap<UserId, Member>,
    /// Those who were in it or were rung, and are no more.
    gone: BTreeMap<UserId, Participant>,
    upgraded_to: Option<RoomId>,
    /// When the hub wakes up for members who still ring.
    ring_timers: BTreeSet<Instant>,
}

#[derive(Debug)]
struct Member {
    /// The session that speaks for the user; `None` while it rings on all of them.
    session: Option<SessionId>,
    /// When it stops ringing; means nothing once a session has answered.
    ring_until: Instant,
    joined_at: Option<Duration>,
    quality: Option<QualitySummary>,
}

/// Messages that came before their call.
#[derive(Debug)]
pub(super) struct Held {
    session: SessionId,
    messages: Vec<ClientMessage>,
    /// Of what the messages carry, as JSON.
    bytes: usize,
}

type Done = Result<(), Refusal>;

fn not_found() -> Refusal {
    Refusal::new("call-not-found", "Call not found")
}

fn not_in_call() -> Refusal {
    Refusal::new("not-in-call", "Not in this call")
}

fn unavailable(user: &UserId) -> Refusal {
    Refusal {
        user: Some(user.clone()),
        ..Refusal::new("recipient-unavailable", "Recipient is not available")
    }
}

impl Call {
    fn is_joined(&self, user: &UserId, session: &SessionId) -> bool {
        self.members.get(user).is_some_and(|member| member.session.as_ref() == Some(session))
    }

    /// A member who rings speaks from any session: shipping clients send their `answer` before their `call-answer`.
    fn may_relay(&self, user: &UserId, session: &SessionId) -> bool {
        self.members.get(user).is_some_and(|member| member.session.as_ref().is_none_or(|own| own == session))
    }

    /// Whether `room` is this call's, and the session takes part in the call.
    pub(super) fn leads_to(&self, room: &RoomId, user: &UserId, session: &SessionId) -> bool {
        self.upgraded_to.as_ref() == Some(room) && self.is_joined(user, session)
    }

    /// The sessions that have joined.
    pub(super) fn speakers(&self) -> impl Iterator<Item = &SessionId> {
        self.members.values().filter_map(|member| member.session.as_ref())
    }

    /// Those who may still answer.
    pub(super) fn ringing(&self) -> impl Iterator<Item = &UserId> {
        self.members.iter().filter(|(_, member)| member.session.is_none()).map(|(user, _)| user)
    }

    fn joined(&self) -> impl Iterator<Item = &UserId> {
        self.members.iter().filter(|(_, member)| member.session.is_some()).map(|(user, _)| user)
    }

    /// Where a member's quality is summed up.
    pub(super) fn quality_of(
        &mut self,
        user: &UserId,
        session: &SessionId,
    ) -> Option<&mut Option<QualitySummary>> {
        let member = self.members.get_mut(user)?;
        (member.session.as_ref() == Some(session)).then_some(&mut member.quality)
    }

    fn remove(&mut self, user: &UserId, at: Duration) {
        if let Some(member) = self.members.remove(user) {
            let left_at = member.joined_at.map(|_| at);
            self.remember(user, member.joined_at, left_at, member.quality);
        }
    }

    /// Who comes twice has one entry, from the first joining to the last leaving.
    fn remember(
        &mut self,
        user: &UserId,
        joined_at: Option<Duration>,
        left_at: Option<Duration>,
        quality: Option<QualitySummary>,
    ) {
        let nobody = Participant { user: user.clone(), joined_at: None, left_at: None, quality: None };
        let entry = self.gone.entry(user.clone()).or_insert(nobody);
        entry.joined_at = entry.joined_at.or(joined_at);
        entry.left_at = left_at.or(entry.left_at);
        entry.quality = quality.or(entry.quality.take());
    }
}

impl Hub {
    pub(super) fn call_message(&mut self, session: &SessionId, message: ClientMessage) -> Done {
        let Some(user) = self.sessions.get(session).map(|session| session.claims.sub.clone()) else {
            return Ok(());
        };
        match message {
            ClientMessage::CallInitiate { call_id, recipient_ids, call_type } => {
                self.initiate(session, user, call_id, recipient_ids, call_type)
            }
            ClientMessage::CallAnswer { call_id } => self.answer_call(session, &user, &call_id),
            ClientMessage::CallReject { call_id, reason } => self.reject(&user, &call_id, reason),
            ClientMessage::CallEnd { call_id, for_all } => self.end_call(session, &user, &call_id, for_all),
            ClientMessage::CallInvite { call_id, recipient_ids } => {
                self.member_of(session, &user, &call_id)?;
                self.may_call(session)?;
                check_recipients(&recipient_ids, &user)?;
                self.ring(session, &call_id, recipient_ids)
            }
            ClientMessage::CallUpgrade { call_id } => {
                self.member_of(session, &user, &call_id)?;
                self.upgrade(&call_id);
                Ok(())
            }
            relayed => self.relay(session, &user, relayed),
        }
    }

    /// The call, if this session has joined it.
    fn member_of(&self, session: &SessionId, user: &UserId, id: &CallId) -> Result<&Call, Refusal> {
        let call = self.calls.get(id).ok_or_else(not_found)?;
        if call.is_joined(user, session) { Ok(call) } else { Err(not_in_call()) }
    }

    fn initiate(
        &mut self,
        session: &SessionId,
        user: UserId,
        id: CallId,
        recipients: Vec<UserId>,
        kind: CallType,
    ) -> Done {
        self.may_call(session)?;
        if self.calls.contains_key(&id) {
            return Err(Refusal::new("call-exists", "A call with this id exists"));
        }
        let own = self.calls.values().filter(|call| call.members.contains_key(&user)).count();
        if own >= CALLS_PER_USER_MAX {
            return Err(Refusal::new("limit-reached", "Too many calls").beyond("calls-of-user"));
        }
        check_recipients(&recipients, &user)?;
        let now = self.unix_now();
        let member = Member {
            session: Some(session.clone()),
            ring_until: self.now,
            joined_at: Some(now),
            quality: None,
        };
        let call = Call {
            record_id: self.random_id(),
            kind,
            initiator: user.clone(),
            wall: self.wall,
            started_at: now,
            answered_at: None,
            members: BTreeMap::from([(user.clone(), member)]),
            gone: BTreeMap::new(),
            upgraded_to: None,
            ring_timers: BTreeSet::new(),
        };
        self.calls.insert(id.clone(), call);
        let rung = self.ring(session, &id, recipients);
        self.release_held(&user, &id);
        self.end_if_alone(&id, "unavailable", None);
        rung
    }

    /// The time, as a call's record has it.
    fn time_in(&self, id: &CallId) -> Duration {
        self.calls.get(id).map_or_else(|| self.unix_now(), |call| call.wall.at(self.now))
    }

    fn may_call(&self, session: &SessionId) -> Done {
        if self.sessions.get(session).is_some_and(|session| session.claims.call) {
            return self.takes_calls();
        }
        Err(Refusal::new("forbidden", "This token does not allow calls"))
    }

    /// Rings everybody who is not a member yet and is there.
    fn ring(&mut self, session: &SessionId, id: &CallId, recipients: Vec<UserId>) -> Done {
        let Some(call) = self.calls.get(id) else { return Err(not_found()) };
        if call.members.len() + recipients.len() > MEMBERS_MAX
            || call.gone.len() + recipients.len() > PARTICIPANTS_MAX
        {
            return Err(
                Refusal::new("limit-reached", "Too many people in this call").beyond("people-in-call")
            );
        }
        let incoming = json!({
            "type": "incoming-call", "callId": id, "initiatorId": call.initiator,
            "callType": call.kind, "recipientIds": recipients,
        });
        let ring_until = self.now + self.config.ring_timeout;
        for user in recipients {
            if self.calls.get(id).is_some_and(|call| call.members.contains_key(&user)) {
                continue;
            }
            let sessions: Vec<SessionId> = self.by_user.get(&user).into_iter().flatten().cloned().collect();
            if sessions.is_empty() {
                self.refuse(session, unavailable(&user), &json!({ "callId": id }));
                if let Some(call) = self.calls.get_mut(id) {
                    call.remember(&user, None, None, None);
                }
                continue;
            }
            if let Some(call) = self.calls.get_mut(id) {
                call.members
                    .insert(user, Member { session: None, ring_until, joined_at: None, quality: None });
                call.ring_timers.insert(ring_until);
            }
            self.timers.insert((ring_until, Timer::Ring(id.clone())));
            for session in sessions {
                self.send(&session, &incoming);
            }
        }
        Ok(())
    }

    fn answer_call(&mut self, session: &SessionId, user: &UserId, id: &CallId) -> Done {
        let now = self.time_in(id);
        let call = self.calls.get_mut(id).ok_or_else(not_found)?;
        let member = call.members.get_mut(user).ok_or_else(not_in_call)?;
        match &member.session {
            Some(own) if own == session => return Ok(()),
            Some(_) => return Err(not_in_call()),
            None => {}
        }
        member.session = Some(session.clone());
        member.joined_at = Some(now);
        call.answered_at.get_or_insert(now);
        let joined = call.joined().count();
        self.tell_joined(id, &json!({ "type": "call-answered", "callId": id, "userId": user }));
        let elsewhere =
            json!({ "type": "call-ended", "callId": id, "endedBy": user, "reason": "answered-elsewhere" });
        let others: Vec<SessionId> =
            self.by_user.get(user).into_iter().flatten().filter(|other| *other != session).cloned().collect();
        for other in others {
            self.send(&other, &elsewhere);
        }
        if joined > 2 {
            self.upgrade(id);
        }
        Ok(())
    }

    fn reject(&mut self, user: &UserId, id: &CallId, reason: Option<String>) -> Done {
        let now = self.time_in(id);
        let call = self.calls.get_mut(id).ok_or_else(not_found)?;
        if call.members.get(user).is_none_or(|member| member.session.is_some()) {
            return Err(not_in_call());
        }
        call.remove(user, now);
        let reason: String =
            reason.unwrap_or_else(|| "rejected".into()).chars().take(REASON_CHARS_MAX).collect();
        let initiator = call.initiator.clone();
        let told = json!({ "type": "call-rejected", "callId": id, "userId": user, "reason": reason });
        self.tell_member(id, &initiator, &told);
        let elsewhere = json!({ "type": "call-ended", "callId": id, "endedBy": user, "reason": "rejected" });
        let own: Vec<SessionId> = self.by_user.get(user).into_iter().flatten().cloned().collect();
        for session in own {
            self.send(&session, &elsewhere);
        }
        self.end_if_alone(id, "rejected", Some(user.clone()));
        Ok(())
    }

    fn end_call(&mut self, session: &SessionId, user: &UserId, id: &CallId, for_all: bool) -> Done {
        let call = self.calls.get(id).ok_or_else(not_found)?;
        let member = call.members.get(user).ok_or_else(not_in_call)?;
        if member.session.is_none() {
            return self.reject(user, id, None);
        }
        if !call.is_joined(user, session) {
            return Err(not_in_call());
        }
        if for_all && call.initiator == *user {
            self.finish_call(id, "hangup", Some(user.clone()));
        } else {
            self.leave_call(id, user, "hangup");
        }
        Ok(())
    }

    fn leave_call(&mut self, id: &CallId, user: &UserId, reason: &'static str) {
        let now = self.time_in(id);
        let Some(call) = self.calls.get_mut(id) else { return };
        if call.members.len() <= 2 || call.joined().all(|joined| joined == user) {
            return self.finish_call(id, reason, Some(user.clone()));
        }
        call.remove(user, now);
        let left = json!({ "type": "participant-left", "callId": id, "userId": user, "reason": reason });
        self.tell_all(id, &left);
    }

    /// A call of one is none.
    fn end_if_alone(&mut self, id: &CallId, reason: &'static str, by: Option<UserId>) {
        if self.calls.get(id).is_some_and(|call| call.members.len() < 2) {
            self.finish_call(id, reason, by);
        }
    }

    /// Tells everybody who is or rings, and the call log.
    pub(super) fn finish_call(&mut self, id: &CallId, reason: &'static str, by: Option<UserId>) {
        let ended = json!({ "type": "call-ended", "callId": id, "endedBy": by, "reason": reason });
        let but = by.clone().filter(|_| reason == "hangup");
        let users: Vec<UserId> =
            self.calls.get(id).into_iter().flat_map(|call| call.members.keys().cloned()).collect();
        for user in users.iter().filter(|user| Some(*user) != but.as_ref()) {
            self.tell_member(id, user, &ended);
        }
        let now = self.time_in(id);
        let Some(mut call) = self.calls.remove(id) else { return };
        for at in std::mem::take(&mut call.ring_timers) {
            self.timers.remove(&(at, Timer::Ring(id.clone())));
        }
        for user in users {
            call.remove(&user, now);
        }
        self.outputs.push_back(Output::Log(CallRecord {
            record_id: call.record_id,
            call_id: id.clone(),
            call_type: call.kind,
            initiator: call.initiator,
            started_at: call.started_at,
            answered_at: call.answered_at,
            ended_at: now,
            end_reason: reason.to_owned(),
            ended_by: by,
            upgraded_to: call.upgraded_to,
            participants: call.gone.into_values().collect(),
        }));
    }

    fn upgrade(&mut self, id: &CallId) {
        let random = self.random_id();
        let Some(call) = self.calls.get_mut(id) else { return };
        if call.upgraded_to.is_none() {
            call.upgraded_to = RoomId::new(&random).ok();
        }
        let upgraded = json!({ "type": "call-upgraded", "callId": id, "roomId": call.upgraded_to });
        self.tell_joined(id, &upgraded);
    }

    fn relay(&mut self, session: &SessionId, user: &UserId, message: ClientMessage) -> Done {
        let (id, recipient, kind, key, value) = match &message {
            ClientMessage::Offer { call_id, recipient_id, sdp } => {
                (call_id, recipient_id, "offer", "sdp", sdp)
            }
            ClientMessage::Answer { call_id, recipient_id, sdp } => {
                (call_id, recipient_id, "answer", "sdp", sdp)
            }
            ClientMessage::Renegotiate { call_id, recipient_id, sdp } => {
                (call_id, recipient_id, "renegotiate", "sdp", sdp)
            }
            ClientMessage::IceCandidate { call_id, recipient_id, candidate } => {
                (call_id, recipient_id, "ice-candidate", "candidate", candidate)
            }
            _ => return Ok(()),
        };
        let Some(call) = self.calls.get(id) else { return self.hold(session, user, message) };
        if !call.may_relay(user, session) {
            return Err(not_in_call());
        }
        if !call.members.contains_key(recipient) {
            return if kind == "ice-candidate" { Ok(()) } else { Err(unavailable(recipient)) };
        }
        let relayed = json!({ "type": kind, "callId": id, "senderId": user, key: value });
        let (id, recipient) = (id.clone(), recipient.clone());
        self.tell_member(&id, &recipient, &relayed);
        Ok(())
    }

    /// Shipping clients send their offer first: it waits for its call.
    fn hold(&mut self, session: &SessionId, user: &UserId, message: ClientMessage) -> Done {
        let (ClientMessage::Offer { call_id, sdp: carried, .. }
        | ClientMessage::Renegotiate { call_id, sdp: carried, .. }
        | ClientMessage::IceCandidate { call_id, candidate: carried, .. }) = &message
        else {
            return Err(not_found());
        };
        let key = (user.clone(), call_id.clone());
        let bytes = carried.to_string().len();
        let own = self.held.values().filter(|held| held.session == *session);
        if bytes + own.map(|held| held.bytes).sum::<usize>() > HELD_BYTES_MAX {
            return Err(not_found().beyond("held"));
        }
        if !self.held.contains_key(&key) {
            let own = self.held.keys().filter(|(owner, _)| owner == user).count();
            if own >= HELD_CALLS_MAX {
                return Err(not_found().beyond("held"));
            }
            self.timers.insert((self.now + HELD_FOR, Timer::Held(key.0.clone(), key.1.clone())));
            self.held.insert(key.clone(), Held { session: session.clone(), messages: Vec::new(), bytes: 0 });
        }
        match self.held.get_mut(&key) {
            Some(held) if held.session == *session && held.messages.len() < HELD_MAX => {
                held.messages.push(message);
                held.bytes += bytes;
                Ok(())
            }
            _ => Err(not_found().beyond("held")),
        }
    }

    pub(super) fn longest_held(&self) -> [(&'static str, usize, usize); 2] {
        let messages = self.held.values().map(|held| held.messages.len()).max().unwrap_or(0);
        let bytes = self.held.values().map(|held| held.bytes).max().unwrap_or(0);
        [("messages before one call", messages, HELD_MAX), ("bytes before one call", bytes, HELD_BYTES_MAX)]
    }

    fn release_held(&mut self, user: &UserId, id: &CallId) {
        let Some(held) = self.held.remove(&(user.clone(), id.clone())) else { return };
        self.timers.retain(|(_, timer)| *timer != Timer::Held(user.clone(), id.clone()));
        for message in held.messages {
            if let Err(refusal) = self.relay(&held.session, user, message) {
                self.refuse(&held.session, refusal, &json!({ "callId": id }));
            }
        }
    }

    pub(super) fn give_up_held(&mut self, user: &UserId, id: &CallId) {
        if let Some(held) = self.held.remove(&(user.clone(), id.clone())) {
            self.refuse(&held.session, not_found(), &json!({ "callId": id }));
        }
    }

    /// Whoever has rung for long enough no longer does; a call of which nobody else is left is over.
    pub(super) fn ring_timeout(&mut self, id: &CallId) {
        let (now, unix_now) = (self.now, self.time_in(id));
        let Some(call) = self.calls.get(id) else { return };
        let rings_on = |member: &Member| member.session.is_some() || member.ring_until > now;
        let silent: Vec<UserId> = call
            .members
            .iter()
            .filter(|(_, member)| !rings_on(member))
            .map(|(user, _)| user.clone())
            .collect();
        if call.members.len() - silent.len() < 2 {
            return self.finish_call(id, "no-answer", None);
        }
        for user in silent {
            let ended = json!({ "type": "call-ended", "callId": id, "endedBy": null, "reason": "no-answer" });
            self.tell_member(id, &user, &ended);
            if let Some(call) = self.calls.get_mut(id) {
                call.remove(&user, unix_now);
            }
            let left =
                json!({ "type": "participant-left", "callId": id, "userId": user, "reason": "no-answer" });
            self.tell_all(id, &left);
        }
    }

    /// A session is gone for good: the calls it spoke in, and those that rang on the user's last session.
    pub(super) fn session_left_calls(
        &mut self,
        user: &UserId,
        session: &SessionId,
        last: bool,
        reason: &'static str,
    ) {
        let theirs: Vec<(CallId, bool)> = self
            .calls
            .iter()
            .filter_map(|(id, call)| {
                let member = call.members.get(user)?;
                let concerned =
                    member.session.as_ref() == Some(session) || (last && member.session.is_none());
                concerned.then(|| (id.clone(), member.session.is_some()))
            })
            .collect();
        for (id, _) in theirs {
            self.leave_call(&id, user, reason);
        }
    }

    fn tell_member(&mut self, id: &CallId, user: &UserId, message: &Value) {
        let Some(member) = self.calls.get(id).and_then(|call| call.members.get(user)) else { return };
        let sessions: Vec<SessionId> = match &member.session {
            Some(session) => vec![session.clone()],
            None => self.by_user.get(user).into_iter().flatten().cloned().collect(),
        };
        for session in sessions {
            self.send(&session, message);
        }
    }

    fn tell_joined(&mut self, id: &CallId, message: &Value) {
        let joined: Vec<UserId> = self
            .calls
            .get(id)
            .into_iter()
            .flat_map(|call| call.joined().cloned().collect::<Vec<_>>())
            .collect();
        for user in joined {
            self.tell_member(id, &user, message);
        }
    }

    fn tell_all(&mut self, id: &CallId, message: &Value) {
        let all: Vec<UserId> =
            self.calls.get(id).into_iter().flat_map(|call| call.members.keys().cloned()).collect();
        for user in all {
            self.tell_member(id, &user, message);
        }
    }
}

fn check_recipients(recipients: &[UserId], initiator: &UserId) -> Done {
    let invalid = |why: &str| Err(Refusal::new("invalid-message", format!("Invalid message format: {why}")));
    if recipients.len() > RECIPIENTS_MAX {
        return invalid("recipientIds has 1 to 32 entries").map_err(|refusal| refusal.beyond("recipients"));
    }
    if recipients.is_empty() {
        return invalid("recipientIds has 1 to 32 entries");
    }
    if recipients.contains(initiator) {
        return invalid("one cannot call oneself");
    }
    Ok(())
}
