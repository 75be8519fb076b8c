//! Any text is either read or refused with errors that can be printed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::hint::black_box;
use supernet_control::manifests;

fuzz_target!(|text: &str| {
    match manifests::read_str("fuzz.yaml", text) {
        Ok(read) => {
            for warning in read.warnings {
                black_box(warning.to_string());
            }
        }
        Err(errors) => {
            assert!(!errors.0.is_empty(), "refused without a reason");
            black_box(errors.to_string());
        }
    }
});
