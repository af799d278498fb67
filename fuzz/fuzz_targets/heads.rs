//! Gives libFuzzer's inputs to `files::heads`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::files::heads(data));
