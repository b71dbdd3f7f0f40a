//! Scripts on the signaling core: given, input, expected outputs. No clock, socket or database.

mod calls;
mod property;
mod quality;
mod rooms;
mod script;
mod sessions;
