//! The parts of the bench. Each measures, writes its figures into the book, and says what it has to say.

pub mod connect;
pub mod sessions;
pub mod storm;
pub mod stream;
pub mod veth;
pub mod workers;

/// `1 session`, `16 sessions`.
fn counted(sessions: usize) -> String {
    format!("{sessions} session{}", if sessions == 1 { "" } else { "s" })
}
