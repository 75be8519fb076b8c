//! What chance rarely finds.
