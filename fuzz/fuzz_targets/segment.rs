//! Gives libFuzzer's inputs to `files::segment`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::files::segment(data));
