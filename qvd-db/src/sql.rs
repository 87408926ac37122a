//! One statement, two dialects.
//!
//! Nearly every text serves both databases as it stands. Where they differ, a word of the table below stands
//! between the pieces; both texts are joined when the crate is compiled, so that every statement is static and
//! its prepared form is found again by its text.

/// A statement and what it does in words, for errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sql {
    /// What it does, to follow "cannot".
    pub(crate) operation: &'static str,
    /// Text for PostgreSQL.
    pub(crate) postgres: &'static str,
    /// Text for SQLite.
    pub(crate) sqlite: &'static str,
}

/// `sql!("load a host": "select … where t < " NOW " …")`.
macro_rules! sql {
    ($operation:literal : $($part:tt)+) => {
        $crate::sql::Sql {
            operation: $operation,
            postgres: concat!($($crate::sql::part!(postgres $part)),+),
            sqlite: concat!($($crate::sql::part!(sqlite $part)),+),
        }
    };
}

/// The words in which the dialects differ, and the column lists that several statements share.
macro_rules! part {
    ($dialect:ident $text:literal) => { $text };
    // The database's clock. SQLite's counts milliseconds, too few to tell two ticks apart: there the time is a
    // parameter with a number of its own, see `NOW_PARAMETER`.
    (postgres NOW) => { "now()" };
    (sqlite NOW) => { "$20" };
    // SQLite's write transactions are alone from their first statement.
    (postgres FOR_UPDATE) => { " for update" };
    (sqlite FOR_UPDATE) => { "" };
    (postgres FOR_SHARE) => { " for share" };
    (sqlite FOR_SHARE) => { "" };
    // Casts of a text parameter.
    (postgres AS_INET) => { "::inet" };
    (sqlite AS_INET) => { "" };
    (postgres AS_JSON) => { "::jsonb" };
    (sqlite AS_JSON) => { "" };
    // A column as text: `INET_TEXT "(v.ip)"`, `"detail" JSON_TEXT`.
    (postgres INET_TEXT) => { "host" };
    (sqlite INET_TEXT) => { "" };
    (postgres JSON_TEXT) => { "::text" };
    (sqlite JSON_TEXT) => { "" };
    // Behind `returning` of a machine's row: who waits for the machine is woken. See `Db::write_state`.
    (postgres TELL_STATE) => { ", pg_notify('qvd_vm_state', vm_id || ':' || run_id || ':' || vm_state)" };
    (sqlite TELL_STATE) => { "" };
    ($dialect:ident USER) => { "id, tenant_id, login, password_hash, blocked" };
    ($dialect:ident OSF) => { "id, tenant_id, name, memory_mib, use_overlay, home_mib, hypervisor" };
    ($dialect:ident DI) => { "d.id, d.osf_id, d.path, d.version, d.format, d.blocked" };
    ($dialect:ident HOST) => {
        "h.id, h.name, h.address, h.frontend, h.backend, h.hypervisors, \
         r.state, r.blocked, r.incarnation, r.ok_ts, r.lease_until, r.pid, r.usable_ram_mib, r.usable_cpu, \
         (select count(*) from vm_runtimes a where a.host_id = h.id) as vms_assigned"
    };
    (postgres VM) => {
        "v.id, v.tenant_id, v.name, v.user_id, v.osf_id, v.di_tag, host(v.ip) as ip, v.storage"
    };
    (sqlite VM) => { "v.id, v.tenant_id, v.name, v.user_id, v.osf_id, v.di_tag, v.ip, v.storage" };
    // Unqualified, so that it also serves `returning`; no other table joined with it has these columns.
    ($dialect:ident RUNTIME) => {
        "vm_id, host_id, run_id, host_incarnation, vm_state, vm_phase, vm_cmd, current_di_id, vm_address, \
         vm_vma_port, vm_x_port, vm_runtimes.blocked, blocked_reason, fail_count, last_error, user_state, user_cmd, \
         real_user_id, l7r_host_id, session_id"
    };
}

pub(crate) use {part, sql};

/// Number of the parameter that is the time in statements for SQLite; no statement has that many of its own.
pub(crate) const NOW_PARAMETER: usize = 20;
