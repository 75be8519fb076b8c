//! Any bytes are parsed or refused: offsets lie inside the frame, etherparse reads the same, and a rewrite of
//! what was parsed leaves a frame with checksums as right or wrong as before. So do those with the checksums made
//! right that decide how far a frame is read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use supernet_testkit::oracle;

fuzz_target!(|frame: &[u8]| {
    oracle::check(frame);
    oracle::check(&oracle::mended(frame));
});
