//! Names of what machines keep on storage; the homes so far.

pub mod homes;
