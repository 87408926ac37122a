//! The local end of a session: `nxproxy` shows the desktop, a relay carries its bytes.
//!
//! ```text
//! router ══TLS══ Session ── relay ──unix socket── nxproxy ── X screen
//!                                   (0700 directory)
//! ```
//!
//! The socket listens before `nxproxy` is started, takes one connection, of this user only, and goes. Directory, socket
//! and NX state belong to this one session, so that any number of them run side by side.
//!
//! Whatever may fail on this side is tried before the server is asked for the desktop ([`Screen::open`],
//! [`NxProxy::prepare`]): a session that was granted and then dropped can cost the desktop its life.

mod nxproxy;
mod output;
mod private_dir;
mod relay;
mod screen;

pub use nxproxy::{Ended, LocalEnd, NxProxy, nx_words};
pub use screen::Screen;
