//! Which keys each kind of object can be filtered by. The same names are the fields of JSON output.

/// The keys of one kind of object.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// The kind, as it is called on the command line.
    pub object: &'static str,
    /// Its keys, in the order of help texts and JSON output.
    pub columns: &'static [Column],
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its canonical name.
    pub name: &'static str,
    /// Other names for the same.
    pub aliases: &'static [&'static str],
    /// What its values are.
    pub kind: Kind,
}

/// What the values of a key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Text; an empty value asks for the empty text.
    Text,
    /// A tag; there is no empty tag.
    Tag,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A truth value.
    Flag,
    /// A moment, compared as `YYYY-MM-DD HH:MM:SS` in UTC.
    Time,
}

impl Keys {
    /// The key with this name or alias.
    pub fn find(&self, name: &str) -> Option<&'static Column> {
        self.columns.iter().find(|column| column.name == name || column.aliases.contains(&name))
    }

    /// Every name and alias, and the form of property keys.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let columns = self
            .columns
            .iter()
            .flat_map(|column| std::iter::once(column.name).chain(column.aliases.iter().copied()));
        columns.chain(std::iter::once("property.KEY"))
    }
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, aliases: &[], kind }
}

const fn aliased(name: &'static str, aliases: &'static [&'static str], kind: Kind) -> Column {
    Column { name, aliases, kind }
}

/// Keys of hosts.
pub static HOST_KEYS: Keys = Keys {
    object: "host",
    columns: &[
        column("id", Kind::Integer),
        column("name", Kind::Text),
        column("address", Kind::Text),
        column("frontend", Kind::Flag),
        column("backend", Kind::Flag),
        column("state", Kind::Text),
        column("blocked", Kind::Flag),
        column("usable_ram", Kind::Number),
        column("usable_cpu", Kind::Number),
        column("vms_assigned", Kind::Integer),
        column("hypervisors", Kind::Text),
        column("pid", Kind::Integer),
        column("ok_ts", Kind::Time),
    ],
};

/// Fields of the counters of hosts.
pub static HOST_COUNTER_KEYS: Keys = Keys {
    object: "host",
    columns: &[
        column("id", Kind::Integer),
        column("name", Kind::Text),
        column("http_requests", Kind::Integer),
        column("auth_attempts", Kind::Integer),
        column("auth_ok", Kind::Integer),
        column("nx_attempts", Kind::Integer),
        column("nx_ok", Kind::Integer),
        column("short_sessions", Kind::Integer),
    ],
};

/// Fields of explanations of hosts.
pub static HOST_EXPLANATION_KEYS: Keys = Keys {
    object: "host",
    columns: &[
        column("id", Kind::Integer),
        column("name", Kind::Text),
        column("state", Kind::Text),
        column("blocked", Kind::Flag),
        column("usable_ram", Kind::Number),
        column("usable_cpu", Kind::Number),
        column("vms_assigned", Kind::Integer),
        column("obstacles", Kind::Text),
        column("decisions", Kind::Text),
        column("chosen", Kind::Integer),
    ],
};

/// Fields of the counters of virtual machines.
pub static VM_COUNTER_KEYS: Keys = Keys {
    object: "vm",
    columns: &[
        column("id", Kind::Integer),
        column("name", Kind::Text),
        column("run_attempts", Kind::Integer),
        column("run_ok", Kind::Integer),
    ],
};

/// Keys of operating system flavours.
pub static OSF_KEYS: Keys = Keys {
    object: "osf",
    columns: &[
        column("id", Kind::Integer),
        column("name", Kind::Text),
        column("memory", Kind::Integer),
        column("use_overlay", Kind::Flag),
        column("user_storage_size", Kind::Integer),
        column("hypervisor", Kind::Text),
    ],
};

/// Keys of disk images.
pub static DI_KEYS: Keys = Keys {
    object: "di",
    columns: &[
        column("id", Kind::Integer),
        column("osf_id", Kind::Integer),
        column("osf", Kind::Text),
        column("path", Kind::Text),
        column("version", Kind::Text),
        column("format", Kind::Text),
        column("tag", Kind::Tag),
        column("fixed", Kind::Flag),
    ],
};

/// Keys of users.
pub static USER_KEYS: Keys = Keys {
    object: "user",
    columns: &[
        column("id", Kind::Integer),
        aliased("login", &["name"], Kind::Text),
        column("blocked", Kind::Flag),
    ],
};

/// Fields of users' tokens.
pub static TOKEN_KEYS: Keys = Keys {
    object: "token",
    columns: &[
        column("user_id", Kind::Integer),
        column("login", Kind::Text),
        column("vm_id", Kind::Integer),
        column("multi_use", Kind::Flag),
        column("created_at", Kind::Time),
        column("expires_at", Kind::Time),
        column("used_at", Kind::Time),
    ],
};

/// Keys of virtual machines.
pub static VM_KEYS: Keys = Keys {
    object: "vm",
    columns: &[
        aliased("id", &["vm_id"], Kind::Integer),
        column("name", Kind::Text),
        column("user_id", Kind::Integer),
        aliased("user", &["login"], Kind::Text),
        column("real_user_id", Kind::Integer),
        column("real_user", Kind::Text),
        column("osf_id", Kind::Integer),
        column("osf", Kind::Text),
        column("di_tag", Kind::Text),
        column("di_id", Kind::Integer),
        column("di", Kind::Text),
        column("current_di_id", Kind::Integer),
        column("running_di", Kind::Text),
        column("ip", Kind::Text),
        column("storage", Kind::Text),
        column("memory", Kind::Integer),
        column("use_overlay", Kind::Flag),
        column("user_storage_size", Kind::Integer),
        column("host_id", Kind::Integer),
        column("host", Kind::Text),
        aliased("state", &["vm_state"], Kind::Text),
        column("vm_phase", Kind::Text),
        column("vm_cmd", Kind::Text),
        column("vm_pid", Kind::Integer),
        column("user_state", Kind::Text),
        column("user_cmd", Kind::Text),
        column("user_ip", Kind::Text),
        column("l7r_host_id", Kind::Integer),
        column("l7r", Kind::Text),
        column("blocked", Kind::Flag),
        column("blocked_by", Kind::Text),
        column("blocked_reason", Kind::Text),
        column("last_error", Kind::Text),
        column("vm_address", Kind::Text),
        column("vm_vma_port", Kind::Integer),
        column("vm_x_port", Kind::Integer),
        column("vm_ssh_port", Kind::Integer),
        column("vm_vnc_port", Kind::Integer),
        column("vm_serial_port", Kind::Integer),
        column("vm_mon_port", Kind::Integer),
        column("vm_state_ts", Kind::Integer),
        column("user_state_ts", Kind::Integer),
        column("vma_ok_ts", Kind::Integer),
        column("vm_expiration_soft", Kind::Time),
        column("vm_expiration_hard", Kind::Time),
    ],
};
