//! The HTTP face of the router: request heads become typed [`Request`]s, typed [`Reply`]s become bytes.
//!
//! The dialect is that of protocol page §2.2 and §2.3: what real clients of three families send and need. The
//! head and the body of an answer, and each 1xx head, are separate writes, hence separate TLS records; old
//! clients search single records and throw away what stands behind a 101.

mod channel;
mod reply;
mod request;

pub(crate) use channel::{Channel, Incoming, Patience, close};
pub use reply::Reply;
pub use request::{Request, Route};
