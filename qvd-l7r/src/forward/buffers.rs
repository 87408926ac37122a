//! The two buffers of a thread, and its pipes, which all its sessions share.

use std::cell::RefCell;

use super::splice::Pipes;

/// Where bytes are while they pass: as the desktop speaks them, and as they are on the client's wire.
#[derive(Debug)]
pub struct Buffers {
    pub(super) clear: Vec<u8>,
    pub(super) sealed: Vec<u8>,
    pub(super) pipes: Pipes,
}

/// Lends this thread's buffers. Whoever has them calls nobody who wants them too.
pub(super) fn with_buffers<T>(work: impl FnOnce(&mut Buffers) -> T) -> T {
    BUFFERS.with_borrow_mut(|buffers| work(buffers.get_or_insert_with(Buffers::new)))
}

impl Buffers {
    fn new() -> Self {
        // Zeroed memory costs nothing until it is used.
        Self {
            clear: vec![0; BUFFER_SIZE],
            sealed: vec![0; BUFFER_SIZE + RECORD_HEADROOM],
            pipes: Pipes::default(),
        }
    }
}

/// Bytes per system call are the first lever of the forward path; more than this brings little.
pub(super) const BUFFER_SIZE: usize = 256 << 10;

/// What sixteen records and a few alerts add to a full buffer, and more.
const RECORD_HEADROOM: usize = 4 << 10;

thread_local! {
    static BUFFERS: RefCell<Option<Buffers>> = const { RefCell::new(None) };
}
