//! Owns the bytes between a client and a node: frames and codes; does not know connections, sessions or the engine.
//!
//! The byte tables are in `docs/protocol.md`.
//!
//! - [`frame`]: what a frame is
//! - [`reader`]: from received chunks to frames
//! - [`reject`]: codes of refusals

mod bytes;
pub mod frame;
pub mod reader;
pub mod reject;
#[cfg(test)]
mod tests;

pub use frame::{ALPN, BatchFrame, Durability, Frame, GoAway, Hello, Kind, Nack, ProducerId, VERSIONS, Welcome};
pub use reader::{FrameError, FrameReader, Received};
pub use reject::{CloseCode, RejectCode};
