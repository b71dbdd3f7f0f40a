//! What Causeway's crates share, one small file per idea.
//!
//! [`control`] holds the values that signaling and media exchange, [`rtp_parameters`] the ORTC objects that cross the
//! wire, [`ids`] the names of things. Nothing here reads a clock or a socket unless the `net` feature asks for it.

pub mod call_record;
pub mod config;
pub mod control;
pub mod handover;
pub mod ids;
pub mod metrics;
#[cfg(feature = "net")]
pub mod net;
pub mod rtp_parameters;
pub mod seq;
pub mod token;
pub mod turn_credentials;
pub mod wall_clock;
