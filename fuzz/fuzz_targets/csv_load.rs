//! Gives libFuzzer's inputs to `text::csv_load`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::text::csv_load(data));
