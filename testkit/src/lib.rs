//! For tests and benches only: networks made by hand, packets and sequences of them, conformance cases.

pub mod fragments;
pub mod net;
pub mod netpol;
pub mod oracle;
pub mod packet;
pub mod scale;
pub mod sequence;
pub mod topology;
