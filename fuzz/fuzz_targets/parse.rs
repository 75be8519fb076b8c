//! Any bytes are parsed or refused: offsets lie inside the frame, etherparse reads the same, and a rewrite of
//! what was parsed leaves a frame with checksums as right or wrong as before.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| supernet_testkit::oracle::check(frame));
