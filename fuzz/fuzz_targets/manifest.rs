//! Gives libFuzzer's inputs to `files::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::files::manifest(data));
