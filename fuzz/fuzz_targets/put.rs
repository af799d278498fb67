//! Gives libFuzzer's inputs to `bulk::put`.
#![no_main]

// The decoder's panics are caught and are refusals; libFuzzer's hook would end the process with the first.
libfuzzer_sys::fuzz_target!(init: std::panic::set_hook(Box::new(|_| ())), |data: &[u8]| tidewell_fuzz::bulk::put(data));
