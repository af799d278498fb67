//! Gives libFuzzer's inputs to `files::summary`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::files::summary(data));
