//! Whatever packets, changes and times follow one another, a dataplane that keeps verdicts between packets does what
//! one does that keeps none; nothing is lost, and silence leaves nothing behind.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Err(what) = supernet_testkit::sequence::play(input) {
        panic!("{what}");
    }
});
