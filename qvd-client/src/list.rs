//! The list of virtual machines, and which of them it shall be.

use std::fmt::Debug;

use async_trait::async_trait;
pub use qvd_core::proto::vm_list::Entry;

use crate::error::{Error, Result};

/// Chooses one virtual machine of a list that is not empty.
///
/// # Contract
///
/// Called once per connect. It may take as long as it likes: the server is asked again if it hung up meanwhile.
///
/// # Cancellation
///
/// The caller drops the future when it gives up.
///
/// # Errors
///
/// [`Error::NoChoice`] when none is chosen; the text tells the user what to do.
///
/// # Example
///
/// ```
/// use qvd_client::list::{Chooser, Entry};
///
/// /// Prefers a machine that runs already.
/// #[derive(Debug)]
/// struct Running;
///
/// #[async_trait::async_trait]
/// impl Chooser for Running {
///     async fn choose(&self, vms: &[Entry]) -> Result<i64, qvd_client::Error> {
///         Ok(vms.iter().find(|vm| vm.state == "running").unwrap_or(&vms[0]).id)
///     }
/// }
/// ```
#[async_trait]
pub trait Chooser: Debug + Send + Sync {
    /// Id of the chosen virtual machine.
    async fn choose(&self, vms: &[Entry]) -> Result<i64>;
}

/// Choices that need nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Choice {
    /// The only one there is.
    Only,
    /// The first of the list.
    First,
    /// The one with this id.
    Id(i64),
}

impl Choice {
    fn pick(self, vms: &[Entry]) -> Result<i64> {
        match (self, vms) {
            (_, []) => Err(Error::NoVms),
            (Self::First, [first, ..]) | (Self::Only, [first]) => Ok(first.id),
            (Self::Id(id), _) if vms.iter().any(|vm| vm.id == id) => Ok(id),
            (Self::Id(id), _) => Err(Error::NoChoice(format!(
                "virtual machine {id} is not on your list ({}); name one of these",
                summary(vms)
            ))),
            (Self::Only, _) => Err(Error::NoChoice(format!(
                "you have {} virtual machines ({}); name one of them",
                vms.len(),
                summary(vms)
            ))),
        }
    }
}

#[async_trait]
impl Chooser for Choice {
    async fn choose(&self, vms: &[Entry]) -> Result<i64> {
        self.pick(vms)
    }
}

/// The first machines of a list on one line: `7 desk, 9 lab, …`.
fn summary(vms: &[Entry]) -> String {
    const SHOWN: usize = 10;
    let mut words: Vec<String> =
        vms.iter().take(SHOWN).map(|vm| format!("{} {}", vm.id, printable(&vm.name))).collect();
    if vms.len() > SHOWN {
        words.push("…".to_owned());
    }
    words.join(", ")
}

/// Foreign text without characters that could steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use qvd_core::state::VmState;

    use super::*;

    fn list(ids: &[i64]) -> Vec<Entry> {
        ids.iter().map(|id| Entry::new(*id, format!("vm{id}\u{1b}"), VmState::Running, false)).collect()
    }

    #[test]
    fn every_choice_over_every_length() {
        assert_eq!(Choice::Only.pick(&list(&[7])).unwrap(), 7);
        assert_eq!(Choice::First.pick(&list(&[7, 9])).unwrap(), 7);
        assert_eq!(Choice::Id(9).pick(&list(&[7, 9])).unwrap(), 9);
        for choice in [Choice::Only, Choice::First, Choice::Id(1)] {
            assert!(matches!(choice.pick(&[]), Err(Error::NoVms)));
        }
        let many: Vec<i64> = (1..30).collect();
        let text = Choice::Only.pick(&list(&many)).unwrap_err().to_string();
        assert!(text.contains("29 virtual machines") && text.contains('…') && !text.contains('\u{1b}'));
        assert!(Choice::Id(3).pick(&list(&[7])).unwrap_err().to_string().contains("7 vm7?"));
    }
}
