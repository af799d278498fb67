//! Owns the tests of the manifest: what a crash, a full disk or a bad medium may do to it.
