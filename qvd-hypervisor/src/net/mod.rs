//! Networks of machines: a pair of interfaces, one end on a bridge of the host, the other inside.
//!
//! [`plan`] decides and touches nothing; [`apply`] runs the words that it made.

pub mod apply;
pub mod plan;
