//! Questions over snapshots, answered as Arrow record batches over Flight.

pub mod export;
pub mod flight;
