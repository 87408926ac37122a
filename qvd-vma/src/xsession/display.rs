//! Finding a display number that no X server of this network namespace has.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Whether the abstract socket of `display` is free. Abstract names are shared by everybody on one network,
/// whatever their `/tmp` is.
pub fn is_free(display: u16) -> bool {
    SocketAddr::from_abstract_name(format!("/tmp/.X11-unix/X{display}"))
        .and_then(|address| UnixListener::bind_addr(&address))
        .is_ok()
}

/// The first free display from `first` on, of the next [`TRIES`].
pub fn first_free(first: u16) -> Option<u16> {
    (first..first.saturating_add(TRIES)).find(|display| is_free(*display))
}

/// Numbers that are tried before giving up.
pub const TRIES: u16 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_number_is_passed_over() {
        let taken = first_free(20_000).unwrap();
        let address = SocketAddr::from_abstract_name(format!("/tmp/.X11-unix/X{taken}")).unwrap();
        let _held = UnixListener::bind_addr(&address).unwrap();
        assert!(!is_free(taken));
        assert!(first_free(taken).unwrap() > taken);
    }
}
