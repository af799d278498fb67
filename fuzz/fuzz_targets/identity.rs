//! Gives libFuzzer's inputs to `wire::identity`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::wire::identity(data));
