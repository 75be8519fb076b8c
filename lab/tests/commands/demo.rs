//! The demo tells its story to the end, and every check of it holds.

use std::process::Command;

#[test]
fn every_check_of_the_demo_holds() {
    let demo = Command::new(env!("CARGO_BIN_EXE_supernet")).arg("demo").output().unwrap();
    let text = String::from_utf8(demo.stdout).unwrap();
    assert!(demo.status.success() && text.contains("20 checks passed, 0 failed"), "{text}");
}
