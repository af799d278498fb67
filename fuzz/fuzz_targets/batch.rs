//! Gives libFuzzer's inputs to `columns::batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::columns::batch(data));
