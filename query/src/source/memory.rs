//! Owns a naive store in memory for tests; does not try to be fast.
