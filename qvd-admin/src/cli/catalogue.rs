//! Every command: its words, its parameters and its help. What a command does is elsewhere.

use crate::filter::{DI_KEYS, HOST_KEYS, Keys, OSF_KEYS, USER_KEYS, VM_KEYS};
use crate::ops::Access;

/// One command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub(super) object: &'static str,
    pub(super) verb: &'static str,
    pub(super) action: Action,
    pub(super) arguments: Arguments,
    /// Keys of `-f`; none when the command takes no filter.
    pub(super) keys: Option<&'static Keys>,
    pub(super) purpose: &'static str,
    /// What follows the two words in the usage line.
    pub(super) usage: &'static str,
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    ConfigDel,
    ConfigGet,
    ConfigSet,
    ConfigSsl,
    DiAdd,
    DiDel,
    DiList,
    DiTag,
    DiUntag,
    HostAdd,
    HostBlock(bool),
    HostCounters,
    HostDel,
    HostExplain,
    HostList,
    OsfAdd,
    OsfDel,
    OsfList,
    SessionList,
    UserAdd,
    UserDel,
    UserList,
    UserPasswd,
    UserTokens,
    VmAccess(Access),
    VmAdd,
    VmBlock(bool),
    VmCounters,
    VmDel,
    VmDisconnectUser,
    VmEdit,
    VmList,
    VmStart,
    VmStop,
    PropDel,
    PropGet,
    PropSet,
}

/// How the words after object and command are read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arguments {
    /// `name=value` with these names.
    Named(&'static [Parameter]),
    /// `name=value` with any name.
    Pairs,
    /// Bare words.
    Words,
}

/// What a command expects among its named arguments.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parameter {
    Mandatory(&'static str),
    Optional(&'static str),
    /// Exactly one of several.
    OneOf(&'static [&'static str]),
    /// Mandatory unless another argument has this value.
    MandatoryUnless(&'static str, (&'static str, &'static str)),
    /// Not together.
    Apart(&'static str, &'static str),
    /// Mandatory unless the password comes from elsewhere.
    Password(&'static str),
}

use Arguments::{Named, Pairs, Words};
use Parameter::{Apart, Mandatory, MandatoryUnless, OneOf, Optional, Password};

impl Command {
    /// Whether it writes to the image storage.
    pub(super) fn needs_root(&self) -> bool {
        matches!(self.action, Action::DiAdd | Action::DiDel)
    }
}

/// The command with these two words.
pub(super) fn find(object: &str, verb: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.object == object && command.verb == verb)
}

const fn command(
    words: (&'static str, &'static str),
    action: Action,
    arguments: Arguments,
    keys: Option<&'static Keys>,
    usage: &'static str,
    purpose: &'static str,
) -> Command {
    Command { object: words.0, verb: words.1, action, arguments, keys, purpose, usage }
}

const NOTHING: Arguments = Named(&[]);
const TAG: Arguments =
    Named(&[Mandatory("di_id"), Mandatory("tag"), Optional("expire-soft"), Optional("expire-hard")]);

/// Every command, sorted by its two words.
pub(super) static COMMANDS: &[Command] = &[
    command(
        ("config", "del"),
        Action::ConfigDel,
        Words,
        None,
        "[key...]",
        "Removes configuration values from the database; without a key, all of them.",
    ),
    command(
        ("config", "get"),
        Action::ConfigGet,
        Words,
        None,
        "[--raw] [--source] [--show-secrets] [key...]",
        "Shows the configuration as this host sees it.",
    ),
    command(
        ("config", "set"),
        Action::ConfigSet,
        Pairs,
        None,
        "[--strict] key=value...",
        "Stores configuration values in the database.",
    ),
    command(
        ("config", "ssl"),
        Action::ConfigSsl,
        Named(&[Mandatory("key"), Mandatory("cert"), Optional("ca"), Optional("crl")]),
        None,
        "key=file cert=file [ca=file] [crl=file]",
        "Stores the certificate and private key of the routers.",
    ),
    command(
        ("di", "add"),
        Action::DiAdd,
        Named(&[
            MandatoryUnless("path", ("format", "none")),
            OneOf(&["osf_id", "osf"]),
            Optional("format"),
            Optional("version"),
            Optional("expire-soft"),
            Optional("expire-hard"),
        ]),
        None,
        "path=file (osf_id=id | osf=name) [version=text] [expire-soft=time] [expire-hard=time]\n       \
         qa di add format=none (osf_id=id | osf=name) [version=text]",
        "Adds a disk image to an OSF; with format=none one without a file, for the process driver.",
    ),
    command(
        ("di", "del"),
        Action::DiDel,
        NOTHING,
        Some(&DI_KEYS),
        "[-f filter] [--force] [--purge]",
        "Deletes disk images that no virtual machine runs from.",
    ),
    command(("di", "list"), Action::DiList, NOTHING, Some(&DI_KEYS), LIST, "Lists disk images."),
    command(
        ("di", "propdel"),
        Action::PropDel,
        Words,
        Some(&DI_KEYS),
        PROPDEL,
        "Deletes properties of disk images.",
    ),
    command(
        ("di", "propget"),
        Action::PropGet,
        Words,
        Some(&DI_KEYS),
        PROPGET,
        "Shows properties of disk images.",
    ),
    command(
        ("di", "propset"),
        Action::PropSet,
        Pairs,
        Some(&DI_KEYS),
        PROPSET,
        "Sets properties of disk images.",
    ),
    command(
        ("di", "tag"),
        Action::DiTag,
        TAG,
        None,
        "di_id=id tag=text [expire-soft=time] [expire-hard=time]",
        "Gives a tag to a disk image, taking it from the other images of its OSF.",
    ),
    command(
        ("di", "untag"),
        Action::DiUntag,
        TAG,
        None,
        "di_id=id tag=text [expire-soft=time] [expire-hard=time]",
        "Takes a tag from a disk image.",
    ),
    command(
        ("host", "add"),
        Action::HostAdd,
        Named(&[Mandatory("name"), Mandatory("address"), Optional("frontend"), Optional("backend")]),
        None,
        "name=nodename address=address [frontend=bool] [backend=bool]",
        "Adds a node.",
    ),
    command(
        ("host", "block"),
        Action::HostBlock(true),
        NOTHING,
        Some(&HOST_KEYS),
        "[-f filter] [--force]",
        "Blocks nodes: they take no new work.",
    ),
    command(
        ("host", "counters"),
        Action::HostCounters,
        NOTHING,
        Some(&HOST_KEYS),
        LIST,
        "Shows the counters of nodes.",
    ),
    command(
        ("host", "del"),
        Action::HostDel,
        NOTHING,
        Some(&HOST_KEYS),
        "[-f filter] [--force]",
        "Deletes nodes that are stopped and have no virtual machines.",
    ),
    command(
        ("host", "explain"),
        Action::HostExplain,
        NOTHING,
        Some(&HOST_KEYS),
        LIST,
        "Tells why nodes get virtual machines, or none.",
    ),
    command(("host", "list"), Action::HostList, NOTHING, Some(&HOST_KEYS), LIST, "Lists nodes."),
    command(
        ("host", "propdel"),
        Action::PropDel,
        Words,
        Some(&HOST_KEYS),
        PROPDEL,
        "Deletes properties of nodes.",
    ),
    command(
        ("host", "propget"),
        Action::PropGet,
        Words,
        Some(&HOST_KEYS),
        PROPGET,
        "Shows properties of nodes.",
    ),
    command(
        ("host", "propset"),
        Action::PropSet,
        Pairs,
        Some(&HOST_KEYS),
        PROPSET,
        "Sets properties of nodes.",
    ),
    command(
        ("host", "unblock"),
        Action::HostBlock(false),
        NOTHING,
        Some(&HOST_KEYS),
        "[-f filter] [--force]",
        "Unblocks nodes.",
    ),
    command(
        ("osf", "add"),
        Action::OsfAdd,
        Named(&[
            Mandatory("name"),
            Optional("memory"),
            Optional("use_overlay"),
            Optional("user_storage_size"),
            Optional("hypervisor"),
        ]),
        None,
        "name=name [memory=MB] [use_overlay=bool] [user_storage_size=size] [hypervisor=kvm|lxc|process|nothing]",
        "Adds an operating system flavour.",
    ),
    command(
        ("osf", "del"),
        Action::OsfDel,
        NOTHING,
        Some(&OSF_KEYS),
        "[-f filter] [--force]",
        "Deletes operating system flavours without virtual machines, and their disk images.",
    ),
    command(
        ("osf", "list"),
        Action::OsfList,
        NOTHING,
        Some(&OSF_KEYS),
        LIST,
        "Lists operating system flavours.",
    ),
    command(
        ("osf", "propdel"),
        Action::PropDel,
        Words,
        Some(&OSF_KEYS),
        PROPDEL,
        "Deletes properties of OSFs.",
    ),
    command(
        ("osf", "propget"),
        Action::PropGet,
        Words,
        Some(&OSF_KEYS),
        PROPGET,
        "Shows properties of OSFs.",
    ),
    command(("osf", "propset"), Action::PropSet, Pairs, Some(&OSF_KEYS), PROPSET, "Sets properties of OSFs."),
    command(
        ("session", "list"),
        Action::SessionList,
        NOTHING,
        Some(&VM_KEYS),
        LIST,
        "Lists the sessions that there are now.",
    ),
    command(
        ("user", "add"),
        Action::UserAdd,
        Named(&[Mandatory("login"), Password("password")]),
        None,
        "login=login password=password\n       qa user add login=login --password-stdin",
        "Adds a user. A password on the command line can be seen by other users of this machine.",
    ),
    command(
        ("user", "del"),
        Action::UserDel,
        NOTHING,
        Some(&USER_KEYS),
        "[-f filter] [--force]",
        "Deletes users who own no virtual machine.",
    ),
    command(("user", "list"), Action::UserList, NOTHING, Some(&USER_KEYS), LIST, "Lists users."),
    command(
        ("user", "passwd"),
        Action::UserPasswd,
        Named(&[OneOf(&["user", "login", "user_id"])]),
        None,
        "user=login [--password-stdin]",
        "Changes the password of a user.",
    ),
    command(
        ("user", "propdel"),
        Action::PropDel,
        Words,
        Some(&USER_KEYS),
        PROPDEL,
        "Deletes properties of users.",
    ),
    command(
        ("user", "propget"),
        Action::PropGet,
        Words,
        Some(&USER_KEYS),
        PROPGET,
        "Shows properties of users.",
    ),
    command(
        ("user", "propset"),
        Action::PropSet,
        Pairs,
        Some(&USER_KEYS),
        PROPSET,
        "Sets properties of users.",
    ),
    command(
        ("user", "tokens"),
        Action::UserTokens,
        Words,
        Some(&USER_KEYS),
        "list [-f filter] [-q] [-o table|json]\n       qa user tokens revoke [-f filter] [--force]",
        "Lists or revokes the tokens with which users connect; a token itself is shown to nobody.",
    ),
    command(
        ("vm", "add"),
        Action::VmAdd,
        Named(&[
            Mandatory("name"),
            OneOf(&["user_id", "user"]),
            OneOf(&["osf_id", "osf"]),
            Apart("bulk", "ip"),
            Optional("bulk"),
            Optional("ip"),
            Optional("di_tag"),
        ]),
        None,
        "name=name (user=login | user_id=id) (osf=name | osf_id=id) [ip=address | bulk=count] [di_tag=tag]",
        "Adds a virtual machine, or several with bulk.",
    ),
    command(
        ("vm", "block"),
        Action::VmBlock(true),
        NOTHING,
        Some(&VM_KEYS),
        "[-f filter] [--force]",
        "Blocks virtual machines: users cannot connect.",
    ),
    command(
        ("vm", "console"),
        Action::VmAccess(Access::Console),
        Words,
        Some(&VM_KEYS),
        ONE,
        "Opens the console of a virtual machine.",
    ),
    command(
        ("vm", "counters"),
        Action::VmCounters,
        NOTHING,
        Some(&VM_KEYS),
        LIST,
        "Shows the counters of virtual machines.",
    ),
    command(
        ("vm", "del"),
        Action::VmDel,
        NOTHING,
        Some(&VM_KEYS),
        "[-f filter] [--force]",
        "Deletes virtual machines that are stopped.",
    ),
    command(
        ("vm", "disconnect_user"),
        Action::VmDisconnectUser,
        NOTHING,
        Some(&VM_KEYS),
        "[-f filter] [--force]",
        "Ends the sessions of virtual machines.",
    ),
    command(
        ("vm", "edit"),
        Action::VmEdit,
        Pairs,
        Some(&VM_KEYS),
        "[name=name] [di_tag=tag] [ip=address] [expire-soft=time] [expire-hard=time] [-f filter] [--force]",
        "Changes virtual machines.",
    ),
    command(("vm", "list"), Action::VmList, NOTHING, Some(&VM_KEYS), LIST, "Lists virtual machines."),
    command(
        ("vm", "propdel"),
        Action::PropDel,
        Words,
        Some(&VM_KEYS),
        PROPDEL,
        "Deletes properties of virtual machines.",
    ),
    command(
        ("vm", "propget"),
        Action::PropGet,
        Words,
        Some(&VM_KEYS),
        PROPGET,
        "Shows properties of virtual machines.",
    ),
    command(
        ("vm", "propset"),
        Action::PropSet,
        Pairs,
        Some(&VM_KEYS),
        PROPSET,
        "Sets properties of virtual machines.",
    ),
    command(
        ("vm", "ssh"),
        Action::VmAccess(Access::Ssh),
        Words,
        Some(&VM_KEYS),
        ONE,
        "Opens a secure shell in a virtual machine.",
    ),
    command(
        ("vm", "start"),
        Action::VmStart,
        NOTHING,
        Some(&VM_KEYS),
        "[-f filter] [--force] [--wait[=seconds]]",
        "Starts virtual machines.",
    ),
    command(
        ("vm", "stop"),
        Action::VmStop,
        NOTHING,
        Some(&VM_KEYS),
        "[-f filter] [--force] [--wait[=seconds]]",
        "Stops virtual machines.",
    ),
    command(
        ("vm", "unblock"),
        Action::VmBlock(false),
        NOTHING,
        Some(&VM_KEYS),
        "[-f filter] [--force]",
        "Unblocks virtual machines.",
    ),
    command(
        ("vm", "vnc"),
        Action::VmAccess(Access::Vnc),
        Words,
        Some(&VM_KEYS),
        ONE,
        "Shows the screen of a virtual machine.",
    ),
];

/// Access to the one machine that a filter must select.
const ONE: &str = "-f filter [-- argument...]";
const LIST: &str = "[-f filter] [-q] [-o table|json]";
const PROPSET: &str = "key=value... [-f filter]";
const PROPGET: &str = "[key...] [-f filter]";
const PROPDEL: &str = "[key...] [-f filter] [--force]";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_those_of_the_old_tool_and_a_few_more_in_order() {
        let mut words: Vec<_> = COMMANDS.iter().map(|c| format!("{} {}", c.object, c.verb)).collect();
        let mut sorted = words.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(words, sorted);
        let new = ["host explain", "session list", "user tokens"];
        assert!(new.iter().all(|new| words.iter().any(|known| known == new)));
        words.retain(|known| !new.contains(&known.as_str()));
        let old = "config: del get set ssl; di: add del list propdel propget propset tag untag; \
                   host: add block counters del list propdel propget propset unblock; \
                   osf: add del list propdel propget propset; \
                   user: add del list passwd propdel propget propset; \
                   vm: add block console counters del disconnect_user edit list \
                   propdel propget propset ssh start stop unblock vnc";
        let expected: Vec<_> = old
            .split("; ")
            .filter_map(|line| line.split_once(": "))
            .flat_map(|(object, verbs)| verbs.split(' ').map(move |verb| format!("{object} {verb}")))
            .collect();
        assert_eq!(words, expected);
        assert_eq!(words.len(), 50);
    }
}
