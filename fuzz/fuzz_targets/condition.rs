//! Gives libFuzzer's inputs to `questions::condition`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::questions::condition(data));
