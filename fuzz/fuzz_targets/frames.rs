//! Gives libFuzzer's inputs to `wire::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::wire::frames(data));
