//! All targets, by name. A new one is a file beside these and its name twice in this file.

use crate::Target;

pub mod channel_data;
pub mod codec;
pub mod config;
pub mod dependency_descriptor;
pub mod frames;
pub mod hub;
pub mod jwt;
pub mod messages;
pub mod ortc;
pub mod relay;
pub mod rtcp;
pub mod rtp;
pub mod sfu;
pub mod srtp;
pub mod stun_ice;
pub mod stun_turn;
pub mod token_keys;
pub mod turnserver_conf;

macro_rules! all {
    ($($name:ident)*) => {
        /// Every target.
        pub const ALL: &[Target] =
            &[$(Target { name: stringify!($name), run: $name::run, seeds: $name::seeds }),*];
    };
}

all! {
    channel_data codec config dependency_descriptor frames hub jwt messages ortc relay rtcp rtp sfu srtp stun_ice stun_turn token_keys
    turnserver_conf
}
