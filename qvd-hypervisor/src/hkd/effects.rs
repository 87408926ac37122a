//! What a task does to the world: each function is one effect of the machine.

use std::sync::Arc;
use std::time::Duration;

use qvd_core::error::chain;
use qvd_core::hook::HookKind;
use qvd_core::hypervisor::{Found, Hypervisor, HypervisorError, ImageSpec, RunningVm, VmSpec};
use qvd_core::vma::{Params, Vma};
use qvd_core::{RunId, VmId};
use qvd_db::Guard;

use super::node::{Node, while_away};
use super::slots::Permit;
use super::vm_machine::Failure;

/// How an effect ended.
pub(crate) enum Answer {
    Done,
    Loaded(Box<Loaded>),
    Permit(Permit),
    Launched(Arc<dyn RunningVm>),
    Failed(Failure),
    /// Somebody else holds the lock of the home.
    HomeInUse(String),
    GuardLost,
}

impl From<HypervisorError> for Answer {
    fn from(error: HypervisorError) -> Self {
        match error {
            HypervisorError::HomeInUse { .. } => Self::HomeInUse(chain(&error).to_string()),
            other => Self::Failed(other.into()),
        }
    }
}

/// What to run and on which driver.
pub(crate) struct Loaded {
    pub(crate) spec: VmSpec,
    pub(crate) driver: Arc<dyn Hypervisor>,
}

/// Reads what to run, chooses the driver, and writes the image it resolved.
pub(crate) async fn load(node: Arc<Node>, vm: VmId, run: RunId) -> Answer {
    let row = match while_away(|| async { node.db.vms().launch_spec(vm).await }).await {
        Ok(Some(row)) => row,
        Ok(None) => return Answer::GuardLost,
        Err(error) => return Answer::Failed(Failure::host(chain(&error).to_string())),
    };
    let driver = match node.driver_to_start(row.osf.hypervisor.as_deref()) {
        Ok(driver) => driver,
        Err(problem) => return Answer::Failed(Failure::nobody(problem)),
    };
    // Resolved and recorded in one write, so that a change of the tag meanwhile finds the image in the row.
    let image = match while_away(|| async { node.db.vms().pin_image(vm, node.host, run).await }).await {
        Ok(Guard::Updated(image)) => image,
        Ok(Guard::Unchanged(_) | Guard::NotFound) => return Answer::GuardLost,
        Err(error) => return Answer::Failed(Failure::host(chain(&error).to_string())),
    };
    if image.is_none() && driver.capabilities().needs_image {
        let (tag, osf) = (&row.vm.di_tag, &row.osf.name);
        let problem = format!("OSF '{osf}' has no usable disk image with the tag '{tag}'");
        return Answer::Failed(Failure::vm(problem));
    }
    let mut spec = VmSpec::new(vm, run, &row.vm.name, &row.login);
    spec.host_incarnation = node.incarnation;
    spec.user_id = row.vm.user_id;
    spec.memory = row.osf.memory;
    spec.use_overlay = row.osf.use_overlay;
    spec.home = row.osf.home;
    spec.storage = row.vm.storage.clone().filter(|name| !name.is_empty());
    spec.ip = row.vm.ip.clone();
    if let Some(image) = image {
        spec.image = ImageSpec::new(image.id, image.path, image.format);
    }
    Answer::Loaded(Box::new(Loaded { spec, driver: Arc::clone(driver) }))
}

/// Prepares, and records the home's name when it is new.
pub(crate) async fn prepare(node: Arc<Node>, driver: Arc<dyn Hypervisor>, spec: VmSpec) -> Answer {
    let prepared = match driver.prepare(&spec).await {
        Ok(prepared) => prepared,
        Err(error) => return error.into(),
    };
    if let (None, Some(storage)) = (&spec.storage, &prepared.storage) {
        let recorded = while_away(|| async { node.db.vms().record_storage(spec.vm_id, storage).await }).await;
        if let Err(error) = recorded {
            return Answer::Failed(Failure::host(chain(&error).to_string()));
        }
    }
    Answer::Done
}

pub(crate) async fn launch(driver: Arc<dyn Hypervisor>, spec: VmSpec) -> Answer {
    match driver.launch(&spec).await {
        Ok(vm) => Answer::Launched(vm),
        Err(error) => error.into(),
    }
}

/// Asks the agent to power off, a few times.
pub(crate) async fn poweroff(agent: Arc<dyn Vma>, retries: u32, pause: Duration) -> Answer {
    let mut attempt = 0;
    loop {
        match agent.poweroff().await {
            Ok(()) => return Answer::Done,
            Err(error) if attempt >= retries => {
                return Answer::Failed(Failure::nobody(chain(&error).to_string()));
            }
            Err(_) => {
                attempt += 1;
                tokio::time::sleep(pause).await;
            }
        }
    }
}

pub(crate) async fn terminate(vm: Arc<dyn RunningVm>) -> Answer {
    answer(vm.terminate().await)
}

/// Kills by the handle, or whatever the driver finds of it. What can be killed is, whatever else cannot be told.
pub(crate) async fn kill(
    node: Arc<Node>,
    driver: Arc<dyn Hypervisor>,
    handle: Option<Arc<dyn RunningVm>>,
    vm: VmId,
    limit: Duration,
) -> Answer {
    if let Some(handle) = handle {
        return answer(handle.kill(limit).await);
    }
    let found = match node.find(&driver).await {
        Ok(found) => found,
        Err(error) => return error.into(),
    };
    let mut lives = None;
    for item in found.into_iter().filter(|item| item.vm_id() == vm) {
        match item {
            Found::Running { vm, .. } => {
                if let Err(error) = vm.kill(limit).await {
                    lives = Some(error.into());
                }
            }
            Found::Partial { .. } => {}
            Found::Unknown { reason, .. } => lives = Some(Failure::nobody(reason)),
            // A kind that this daemon does not know is not known to be dead.
            other => lives = Some(Failure::nobody(format!("found {other:?}"))),
        }
    }
    lives.map_or(Answer::Done, Answer::Failed)
}

pub(crate) async fn cleanup(driver: Arc<dyn Hypervisor>, vm: VmId) -> Answer {
    answer(driver.cleanup(vm).await)
}

pub(crate) async fn run_hook(node: Arc<Node>, kind: HookKind, params: Params) -> Answer {
    match node.run_hooks(kind, params).await {
        Ok(()) => Answer::Done,
        Err(failure) => Answer::Failed(failure),
    }
}

/// What a hook of this host is told, in the order of version 3.5.
pub(crate) fn hook_params(kind: HookKind, spec: &VmSpec) -> Params {
    let (hook, state) = match kind {
        HookKind::PreStart => ("prestart", "starting"),
        HookKind::PostStart => ("poststart", "running"),
        _ => ("poststop", "stopping"),
    };
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let mut params = vec![
        pair("id", spec.vm_id.to_string()),
        pair("hook", hook.to_owned()),
        pair("state", state.to_owned()),
        pair("use_overlay", u8::from(spec.use_overlay).to_string()),
        pair("name", spec.name.clone()),
    ];
    params.extend(spec.ip.clone().map(|ip| pair("ip", ip)));
    params
}

fn answer(outcome: Result<(), HypervisorError>) -> Answer {
    outcome.map_or_else(Answer::from, |()| Answer::Done)
}
