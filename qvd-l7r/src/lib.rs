//! The layer-7 router of QVD.

pub mod forward;
