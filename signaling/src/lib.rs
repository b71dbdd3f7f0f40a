//! Calls, rooms and sessions: [`hub`] is the core, `message` its wire schema; `net` and `store` are its shells.

pub mod hub;
mod message;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "net")]
pub mod store;

pub use message::message_types;
