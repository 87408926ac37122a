//! Sans-IO codecs of the wire protocols: bytes in, values out, and back.
//!
//! | module | what |
//! |---|---|
//! | [`http1`] | the HTTP/1.1 dialect of the QVD port and of the agent |
//! | [`query`] | query strings, as an ordered list of pairs |
//! | [`upgrade`] | the texts and header names of the `QVD/1.0` upgrade, and the checks of its parameters |
//! | [`vm_list`] | the JSON list of virtual machines |
//! | [`vma_rpc`] | calls of the agent |
//! | [`proxy`] | the PROXY header of balancers |
//! | [`basic`] | Basic credentials and shared environment headers |
//! | [`jwt`] | signed tokens of identity providers, read and not yet believed |

pub mod basic;
pub mod http1;
pub mod jwt;
pub mod proxy;
pub mod query;
pub mod upgrade;
pub mod vm_list;
pub mod vma_rpc;
