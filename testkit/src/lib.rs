//! For tests and benches only.

pub mod netpol;
