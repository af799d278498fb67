//! Owns the query address: Arrow Flight over TLS, who may ask what, and a client; does not compute answers.
//!
//! - [`auth`]: callers, roles, devices they may see
//! - [`tls`]: settings of the listener
//! - [`store`]: what a node must offer to be asked
//! - [`client`]: the other end, for the command line
//!
//! A call goes through `server` (listener, HTTP/2 bounds), `connection` (who is it), `service` (which call),
//! `descriptor` (what is asked), `running` (its turn, its bounds) and `answer` (batches to the wire) or `actions`.

mod actions;
mod answer;
pub mod auth;
pub mod client;
mod connection;
mod descriptor;
mod engine_store;
mod erase;
mod plan;
mod put;
mod rows;
mod running;
mod server;
mod service;
mod status;
pub mod store;
pub mod tls;

pub use auth::{Authenticator, Credentials, DeviceScope, Principal, Roles};
pub use client::{ClientError, ClientOptions, QueryClient};
pub use engine_store::EngineStore;
pub use plan::plan;
pub use put::put_batches;
pub use running::FlightLimits;
pub use server::{ServeError, serve_flight};
pub use service::FlightQueries;
pub use store::{Backups, Batches, DevicePages, Plan, Store};
pub use tls::{TlsError, TlsSource};
