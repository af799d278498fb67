//! Gives libFuzzer's inputs to `text::listing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::text::listing(data));
