//! Tests of frames and of the reader.
