//! Gives libFuzzer's inputs to `questions::question`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::questions::question(data));
