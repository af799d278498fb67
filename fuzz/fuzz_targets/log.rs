//! Gives libFuzzer's inputs to `files::log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::files::log(data));
