//! What the hub has refused, counted for `/metrics`: messages by the code that they were answered with, and which limit of
//! `docs/protocol.md` §1 was reached, whether that was told to somebody or not. Both are words of ours, never of a client.

use std::collections::BTreeMap;

/// Totals since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Messages that were answered with an error, by its code.
    pub messages: BTreeMap<&'static str, u64>,
    /// How often each limit was reached.
    pub limits: BTreeMap<&'static str, u64>,
}

impl Refusals {
    /// One message was answered with this code.
    pub(super) fn message(&mut self, code: &'static str) {
        *self.messages.entry(code).or_default() += 1;
    }

    /// Somebody reached this limit.
    pub(super) fn limit(&mut self, name: &'static str) {
        *self.limits.entry(name).or_default() += 1;
    }
}

/// The limit's name in metrics, for the close codes by which the shell cuts a client off.
pub(super) fn limit_of_close_code(code: u16) -> Option<&'static str> {
    match code {
        1002 | 1007 => Some("websocket-rules"),
        1009 => Some("message-bytes"),
        1013 => Some("unread-messages"),
        _ => None,
    }
}
