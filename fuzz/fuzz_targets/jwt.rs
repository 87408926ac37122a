#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qvd_core::testkit::fuzz::jwt(bytes));
