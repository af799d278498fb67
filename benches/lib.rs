//! Owns the workloads that the benches share; does not measure.
