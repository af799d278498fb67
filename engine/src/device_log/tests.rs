//! Owns the tests of the log: what a crash, a full disk or a bad medium may do to it.
