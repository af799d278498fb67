//! Gives libFuzzer's inputs to `session::client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::session::client(data));
