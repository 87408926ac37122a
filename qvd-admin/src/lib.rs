//! Administration of QVD: every operation once, one query language ([`filter`]), the time language of
//! expirations ([`at`]), and the `qa` command line over them.

pub mod at;
pub mod filter;
