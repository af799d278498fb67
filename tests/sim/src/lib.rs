//! Clients, network, sessions, shards and disk in one thread with made-up time, from one seed.
//!
//! Everything but the sockets is the product's own code: sessions of `ingest`, the stepped engine, queries. Modules, from
//! the outside in:
//!
//! - [`run`]: one seed from beginning to end, and what is left of it when it is cut down
//! - [`world`]: who is there, and what happens at a step; [`operate`]: inside the node
//! - [`client`], [`node`], [`disk`]: the parts
//! - [`batches`], [`model`], [`check`]: what must be true
//! - [`coverage`]: what was met; [`random`], [`rows`]: choices and data
#![cfg(feature = "world")]
#![allow(missing_docs, reason = "what is not for others is told by its name")]

pub mod batches;
pub mod check;
pub mod client;
pub mod coverage;
pub mod disk;
pub mod model;
pub mod node;
mod operate;
pub mod random;
pub mod rows;
pub mod run;
pub mod world;
