//! Bytes from devices: wire protocol, sessions, QUIC server and client.
//!
//! Modules in the order in which data flows:
//!
//! - [`wire`]: frames and their bytes
//! - [`session`]: both ends of a lane as state machines without I/O
//! - [`identity`], [`grants`]: who a peer is, and what it may write
//! - [`tls`], [`authority`], [`quic`]: certificates of both ends, where they come from, and the transport
//! - [`client`] (feature `client`): batches, sends again, needs no engine
//! - [`server`] (feature `server`): the ingest address of a node
#![forbid(unsafe_code)]

pub mod authority;
#[cfg(feature = "client")]
pub mod client;
pub mod grants;
pub mod identity;
#[cfg(feature = "planted")]
pub mod planted;
#[cfg(not(feature = "planted"))]
#[allow(dead_code, reason = "all that is left of planted bugs")]
mod planted;
pub mod quic;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
pub mod tls;
pub mod wire;
