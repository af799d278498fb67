//! Gives libFuzzer's inputs to `text::configuration`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::text::configuration(data));
