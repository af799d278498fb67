//! Gives libFuzzer's inputs to `session::server`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::session::server(data));
