//! For tests and benches only: networks made by hand, packets, slow oracles.

pub mod packet;
pub mod topology;
