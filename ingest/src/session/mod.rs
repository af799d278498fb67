//! Owns both ends of a lane as state machines: frames, outcomes and times in, actions out; no socket, clock or engine.
//!
//! - [`server`]: the node's end
//! - [`client`]: the sender's end
//! - [`producers`]: which lane a producer is on

pub mod client;
pub mod producers;
pub mod server;
#[cfg(test)]
mod tests;

pub use client::{ClientConfig, ClientEvent, ClientSession, OutBatch, PushError};
pub use producers::Producers;
pub use server::{Action, Refusal, ServerConfig, ServerSession, Submission};
