//! Tests of both ends of a lane, driven in memory with made-up time.
