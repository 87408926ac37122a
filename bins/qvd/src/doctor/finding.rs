//! What a look at one prerequisite found.

use qvd_core::hypervisor::Check;

/// One line of the report.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) what: String,
    /// What was found, in words.
    pub(crate) found: String,
    /// The version of a program, as it tells it.
    pub(crate) version: Option<String>,
    /// What to do; none when all is well.
    pub(crate) remedy: Option<String>,
    /// Whether nothing works without it.
    pub(crate) required: bool,
}

/// All is well with it.
pub(super) fn fine(what: &str, found: String) -> Finding {
    Finding { what: what.to_owned(), found, version: None, remedy: None, required: true }
}

/// Something is to be done.
pub(super) fn failed(what: &str, found: &str, remedy: &str) -> Finding {
    Finding { remedy: Some(remedy.to_owned()), ..fine(what, found.to_owned()) }
}

impl Finding {
    /// The same, but a desktop can be had without it.
    pub(super) fn optional(self) -> Self {
        Self { required: false, ..self }
    }
}

impl From<Check> for Finding {
    fn from(check: Check) -> Self {
        Self {
            what: check.what,
            found: check.found,
            version: None,
            remedy: check.remedy,
            required: check.required,
        }
    }
}
