//! Load: networks under test, frames of many connections, and the pipeline that takes them.
//!
//! A library target only so that `supernet bench` (the binary) and `benches/pipeline.rs` (criterion) measure
//! the same thing. It is no interface for embedders: those use the crate `supernet`.

pub mod load;
