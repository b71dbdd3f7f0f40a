//! Scripts on the signaling core: given, input, expected outputs. No clock, socket or database.

mod bad_input;
mod calls;
mod drain;
mod promises;
mod property;
mod quality;
mod refusals;
mod rooms;
mod scene;
mod script;
mod sessions;
mod span;
