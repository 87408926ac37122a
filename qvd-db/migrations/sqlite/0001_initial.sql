-- The whole model, SQLite dialect: times are microseconds since the epoch. The PostgreSQL file of the same name describes the same tables and columns
-- in the same order; a test compares the two lists.

-- ------------------------------------------------------------------ legal values, for reports; enforced by CHECK below

create table vm_states (name text not null primary key) strict;
insert into vm_states (name) values ('stopped'), ('starting'), ('running'), ('stopping'), ('zombie'), ('debugging');

create table vm_cmds (name text not null primary key) strict;
insert into vm_cmds (name) values ('start'), ('stop');

create table user_states (name text not null primary key) strict;
insert into user_states (name) values ('disconnected'), ('connecting'), ('connected');

create table user_cmds (name text not null primary key) strict;
insert into user_cmds (name) values ('abort');

create table host_states (name text not null primary key) strict;
insert into host_states (name) values ('stopped'), ('starting'), ('running'), ('stopping'), ('lost');

create table host_cmds (name text not null primary key) strict;
insert into host_cmds (name) values ('stop');

-- ------------------------------------------------------------------ static objects

create table tenants (
    id integer primary key autoincrement,
    name text not null unique check (length(name) between 1 and 64),
    blocked integer not null default 0 check (blocked in (0, 1)),
    created_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    updated_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer))
) strict;
insert into tenants (name) values ('default');

create table users (
    id integer primary key autoincrement,
    tenant_id integer not null references tenants (id) on delete restrict,
    login text not null check (length(login) between 1 and 64),
    password_hash text,
    blocked integer not null default 0 check (blocked in (0, 1)),
    description text,
    created_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    updated_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    version integer not null default 0,
    unique (tenant_id, login),
    unique (id, tenant_id)
) strict;

create table osfs (
    id integer primary key autoincrement,
    tenant_id integer not null references tenants (id) on delete restrict,
    name text not null check (length(name) between 1 and 64),
    memory_mib integer not null check (memory_mib >= 16),
    use_overlay integer not null default 1 check (use_overlay in (0, 1)),
    home_mib integer check (home_mib > 0),
    hypervisor text check (hypervisor in ('kvm', 'lxc', 'process', 'nothing')),
    description text,
    created_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    updated_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    version integer not null default 0,
    unique (tenant_id, name)
) strict;

-- `version` is the image's own, so the optimistic lock has another name here.
create table dis (
    id integer primary key autoincrement,
    osf_id integer not null references osfs (id) on delete restrict,
    path text not null check (length(path) <= 4096 and path not like '%/%' and path <> '..'),
    version text not null check (length(version) between 1 and 64),
    format text not null check (format in ('qcow2', 'raw', 'tar', 'tar.gz', 'tar.bz2', 'tar.xz', 'tar.zst', 'none')),
    sha256 text,
    size integer check (size >= 0),
    blocked integer not null default 0 check (blocked in (0, 1)),
    state text not null default 'staging' check (state in ('staging', 'ready', 'retired')),
    description text,
    created_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    updated_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    row_version integer not null default 0,
    unique (osf_id, version),
    unique (id, osf_id)
) strict;

-- A tag is unique within its flavour: that is the primary key.
create table di_tags (
    osf_id integer not null,
    di_id integer not null,
    tag text not null check (length(tag) between 1 and 128),
    fixed integer not null default 0 check (fixed in (0, 1)),
    primary key (osf_id, tag),
    foreign key (di_id, osf_id) references dis (id, osf_id) on delete cascade
) strict;
create index di_tags_di on di_tags (di_id);

create table hosts (
    id integer primary key autoincrement,
    name text not null unique check (length(name) between 1 and 127),
    address text not null unique check (length(address) between 1 and 127),
    frontend integer not null default 1 check (frontend in (0, 1)),
    backend integer not null default 1 check (backend in (0, 1)),
    hypervisors text,
    description text,
    created_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    updated_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    version integer not null default 0
) strict;

create table vms (
    id integer primary key autoincrement,
    tenant_id integer not null,
    name text not null check (length(name) between 1 and 64),
    user_id integer not null,
    osf_id integer not null references osfs (id) on delete restrict,
    di_tag text not null default 'default' check (length(di_tag) between 1 and 128),
    ip text unique,
    storage text check (length(storage) <= 4096),
    description text,
    deleted_at integer,
    created_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    updated_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    version integer not null default 0,
    unique (tenant_id, name),
    foreign key (user_id, tenant_id) references users (id, tenant_id) on delete restrict
) strict;
create index vms_user on vms (user_id);
create index vms_osf on vms (osf_id);

-- ------------------------------------------------------------------ properties

create table user_properties (
    user_id integer not null references users (id) on delete cascade,
    key text not null check (length(key) between 1 and 1024),
    value text not null check (length(value) <= 32768),
    primary key (user_id, key)
) strict;

create table vm_properties (
    vm_id integer not null references vms (id) on delete cascade,
    key text not null check (length(key) between 1 and 1024),
    value text not null check (length(value) <= 32768),
    primary key (vm_id, key)
) strict;

create table osf_properties (
    osf_id integer not null references osfs (id) on delete cascade,
    key text not null check (length(key) between 1 and 1024),
    value text not null check (length(value) <= 32768),
    primary key (osf_id, key)
) strict;

create table di_properties (
    di_id integer not null references dis (id) on delete cascade,
    key text not null check (length(key) between 1 and 1024),
    value text not null check (length(value) <= 32768),
    primary key (di_id, key)
) strict;

create table host_properties (
    host_id integer not null references hosts (id) on delete cascade,
    key text not null check (length(key) between 1 and 1024),
    value text not null check (length(value) <= 32768),
    primary key (host_id, key)
) strict;

-- ------------------------------------------------------------------ run time

create table host_runtimes (
    host_id integer primary key references hosts (id) on delete cascade,
    state text not null default 'stopped' check (state in ('stopped', 'starting', 'running', 'stopping', 'lost')),
    state_ts integer,
    incarnation integer not null default 0,
    run_token text,
    machine_id text,
    boot_id text,
    pid integer,
    ok_ts integer,
    lease_until integer,
    fence_until integer,
    usable_ram_mib integer check (usable_ram_mib >= 0),
    usable_cpu real,
    default_hypervisor text,
    mem_available_mib integer check (mem_available_mib >= 0),
    load1 real,
    cpu_idle real,
    vms_starting integer,
    heavy_free integer,
    blocked integer not null default 0 check (blocked in (0, 1)),
    blocked_reason text,
    blocked_by text check (blocked_by in ('admin', 'hkd')),
    fail_count integer not null default 0,
    last_error text,
    cmd text check (cmd in ('stop')),
    version integer not null default 0
) strict;

create table vm_runtimes (
    vm_id integer primary key references vms (id) on delete cascade,
    host_id integer references hosts (id) on delete restrict,
    run_id integer not null default 0,
    host_incarnation integer,
    vm_state text not null default 'stopped'
        check (vm_state in ('stopped', 'starting', 'running', 'stopping', 'zombie', 'debugging')),
    vm_phase text,
    vm_state_ts integer,
    vm_cmd text check (vm_cmd in ('start', 'stop')),
    vm_cmd_ts integer,
    vm_cmd_by text,
    current_osf_id integer references osfs (id) on delete restrict,
    current_di_id integer references dis (id) on delete restrict,
    vm_pid integer,
    vm_pid_start integer,
    vm_address text,
    vm_vma_port integer check (vm_vma_port between 0 and 65535),
    vm_x_port integer check (vm_x_port between 0 and 65535),
    vm_ssh_port integer check (vm_ssh_port between 0 and 65535),
    vm_vnc_port integer check (vm_vnc_port between 0 and 65535),
    vm_mon_port integer check (vm_mon_port between 0 and 65535),
    vm_serial_port integer check (vm_serial_port between 0 and 65535),
    vm_expiration_soft integer,
    vm_expiration_hard integer,
    expire_alerted_at integer,
    vma_ok_ts integer,
    blocked integer not null default 0 check (blocked in (0, 1)),
    blocked_reason text,
    blocked_by text check (blocked_by in ('admin', 'hkd')),
    fail_count integer not null default 0,
    last_error text,
    last_error_ts integer,
    failed_run_id integer,
    user_state text not null default 'disconnected' check (user_state in ('disconnected', 'connecting', 'connected')),
    user_state_ts integer,
    user_cmd text check (user_cmd in ('abort')),
    user_cmd_ts integer,
    real_user_id integer references users (id) on delete set null,
    user_ip text,
    l7r_host_id integer references hosts (id) on delete restrict,
    l7r_pid integer,
    l7r_instance text,
    session_id text,
    version integer not null default 0,
    constraint idle_row_is_clean check (
        vm_state <> 'stopped'
        or (
            vm_phase is null and vm_pid is null and vm_pid_start is null and vm_address is null
            and vm_vma_port is null and vm_x_port is null and vm_ssh_port is null
            and vm_vnc_port is null and vm_mon_port is null and vm_serial_port is null
            and current_di_id is null and vm_expiration_soft is null and vm_expiration_hard is null
        )
    ),
    constraint phase_fits_state check (vm_phase is null or vm_phase in (vm_state || '_1', vm_state || '_2')),
    constraint incarnation_with_host check ((host_id is null) = (host_incarnation is null)),
    constraint live_vm_has_host check (vm_state = 'stopped' or host_id is not null),
    constraint no_parked_assignment check (
        host_id is null or vm_state <> 'stopped' or (vm_cmd is not null and vm_cmd = 'start')
    ),
    constraint start_only_when_stopped check (
        vm_cmd is null or vm_cmd <> 'start' or (vm_state = 'stopped' and host_id is not null)
    ),
    constraint stop_only_when_live check (
        vm_cmd is null or vm_cmd <> 'stop' or vm_state in ('starting', 'running', 'debugging')
    ),
    constraint session_has_owner check (
        (user_state = 'disconnected') = (l7r_host_id is null)
        and (user_state = 'disconnected') = (l7r_pid is null)
        and (user_state = 'disconnected') = (l7r_instance is null)
        and (user_state = 'disconnected') = (session_id is null)
    ),
    constraint abort_needs_session check (user_cmd is null or user_state <> 'disconnected')
) strict;
create index vm_runtimes_host on vm_runtimes (host_id, vm_state);
create index vm_runtimes_pending on vm_runtimes (host_id) where vm_cmd is not null;
create index vm_runtimes_l7r on vm_runtimes (l7r_host_id) where l7r_host_id is not null;
create index vm_runtimes_current_osf on vm_runtimes (current_osf_id) where current_osf_id is not null;
create index vm_runtimes_current_di on vm_runtimes (current_di_id) where current_di_id is not null;
create index vm_runtimes_real_user on vm_runtimes (real_user_id) where real_user_id is not null;
create index vm_runtimes_soft on vm_runtimes (vm_expiration_soft) where vm_expiration_soft is not null;
create index vm_runtimes_hard on vm_runtimes (vm_expiration_hard) where vm_expiration_hard is not null;

create table vm_counters (
    vm_id integer primary key references vms (id) on delete cascade,
    run_attempts integer not null default 0,
    run_ok integer not null default 0
) strict;

create table host_counters (
    host_id integer primary key references hosts (id) on delete cascade,
    http_requests integer not null default 0,
    auth_attempts integer not null default 0,
    auth_ok integer not null default 0,
    nx_attempts integer not null default 0,
    nx_ok integer not null default 0,
    short_sessions integer not null default 0
) strict;

-- ------------------------------------------------------------------ configuration

create table configs (
    tenant_id integer not null references tenants (id) on delete cascade,
    key text not null check (length(key) between 1 and 255),
    value text not null check (length(value) <= 32768),
    created_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    updated_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    primary key (tenant_id, key)
) strict;

create table ssl_configs (
    key text not null primary key,
    value text not null,
    created_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    updated_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer))
) strict;

-- The migration table decides; this one is for old tools that ask here.
create table versions (
    component text not null primary key,
    version text not null
) strict;
insert into versions (component, version) values ('schema', '5.0.1');

-- The oldest schema whose programs can work with this one: raised by steps that break older programs.
create table schema_floor (
    id integer primary key check (id = 1),
    version integer not null
) strict;
insert into schema_floor (id, version) values (1, 1);

-- ------------------------------------------------------------------ administration

create table administrators (
    id integer primary key autoincrement,
    tenant_id integer not null references tenants (id) on delete restrict,
    name text not null check (length(name) between 1 and 64),
    description text,
    password_hash text,
    blocked integer not null default 0 check (blocked in (0, 1)),
    preferences text check (json_valid(preferences)),
    created_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    updated_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    version integer not null default 0,
    unique (tenant_id, name)
) strict;

create table roles (
    id integer primary key autoincrement,
    tenant_id integer not null references tenants (id) on delete restrict,
    name text not null check (length(name) between 1 and 64),
    description text,
    internal integer not null default 0 check (internal in (0, 1)),
    fixed integer not null default 0 check (fixed in (0, 1)),
    created_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    updated_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    version integer not null default 0,
    unique (tenant_id, name)
) strict;

create table role_grants (
    role_id integer not null references roles (id) on delete cascade,
    object text not null,
    verb text not null,
    positive integer not null default 1 check (positive in (0, 1)),
    primary key (role_id, object, verb)
) strict;

create table role_inherits (
    inheritor_id integer not null references roles (id) on delete cascade,
    inherited_id integer not null references roles (id) on delete cascade,
    primary key (inheritor_id, inherited_id),
    constraint no_self_inheritance check (inheritor_id <> inherited_id)
) strict;

create table administrator_roles (
    administrator_id integer not null references administrators (id) on delete cascade,
    role_id integer not null references roles (id) on delete cascade,
    primary key (administrator_id, role_id)
) strict;

-- Web sessions. Only a digest of the cookie is kept.
create table sessions (
    sid_digest text not null primary key,
    kind text not null check (kind in ('admin', 'user')),
    administrator_id integer references administrators (id) on delete cascade,
    user_id integer references users (id) on delete cascade,
    content text check (json_valid(content)),
    created_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    expires_at integer not null,
    constraint session_of_one check ((administrator_id is null) <> (user_id is null))
) strict;
create index sessions_administrator on sessions (administrator_id) where administrator_id is not null;
create index sessions_user on sessions (user_id) where user_id is not null;
create index sessions_expiry on sessions (expires_at);

-- Connect tickets. Only a digest of the token is kept; params are what the login gave to the session.
create table user_tokens (
    token_digest text not null primary key,
    user_id integer not null references users (id) on delete cascade,
    vm_id integer references vms (id) on delete cascade,
    multi_use integer not null default 0 check (multi_use in (0, 1)),
    params text not null check (json_valid(params)),
    created_at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    expires_at integer not null,
    used_at integer
) strict;
create index user_tokens_user on user_tokens (user_id);
create index user_tokens_vm on user_tokens (vm_id) where vm_id is not null;
create index user_tokens_expiry on user_tokens (expires_at);

-- Names are copied and nothing is referenced, so that a delete does not erase history.
create table audit_log (
    id integer primary key autoincrement,
    at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    administrator_id integer,
    administrator_name text,
    tenant_id integer,
    tenant_name text,
    action text not null,
    action_type text not null,
    arguments text check (json_valid(arguments)),
    object text,
    object_id integer,
    object_name text,
    status text not null,
    source text,
    ip text,
    superadmin integer not null default 0 check (superadmin in (0, 1))
) strict;
create index audit_log_at on audit_log (at);

-- ------------------------------------------------------------------ journals

create table events (
    id integer primary key autoincrement,
    at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    host_id integer,
    vm_id integer,
    kind text not null,
    from_state text,
    to_state text,
    detail text check (json_valid(detail))
) strict;
create index events_at on events (at);
create index events_vm on events (vm_id, id);
create index events_host on events (host_id, id);

create table placement_decisions (
    id integer primary key autoincrement,
    at integer not null default (cast(round(unixepoch('now', 'subsec') * 1000000.0) as integer)),
    vm_id integer not null,
    plugin text not null,
    inputs text not null check (json_valid(inputs)),
    host_id integer
) strict;
create index placement_decisions_vm on placement_decisions (vm_id, id);
