//! Gives libFuzzer's inputs to `text::line_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidewell_fuzz::text::line_protocol(data));
