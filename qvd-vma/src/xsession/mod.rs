//! The one X session of this machine: nxagent, and the desktop's own program on it.
//!
//! Pure: [`machine`] decides, [`output`] reads the agent's words, [`options`], [`environment`] and [`authority`]
//! make what the agent is started with, [`user_command`] how anything is started as the session's user. The rest
//! does: [`nxagent`] runs the agent, [`desktop`] what is drawn on it, and [`task`] owns the machine and carries out
//! its actions.

pub mod authority;
pub mod desktop;
pub mod display;
pub mod environment;
pub mod guard;
mod installed;
pub mod machine;
pub mod nxagent;
pub mod options;
pub mod output;
pub mod prepare;
mod session_files;
pub mod task;
pub mod user_command;
