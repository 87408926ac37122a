//! What a daemon is built from, and the times and limits of the configuration.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use qvd_core::VmId;
use qvd_core::config::Config;
use qvd_core::hook::Hook;
use qvd_core::hypervisor::{Endpoint, Hypervisor};
use qvd_core::vma::Vma;
use qvd_db::Db;
use qvd_vma::client::VmaClient;
use tokio::sync::{mpsc, oneshot};

use super::host_machine::{HostLimits, Shutdown};
use super::vm_machine::Limits;

/// Reaches the agent inside a virtual machine.
///
/// # Contract
///
/// Returns at once and touches no network: the client connects when it is called. Any number of clients of one agent
/// may exist. Every closure from an endpoint to an agent is a connector.
///
/// # Cancellation
///
/// Not asynchronous; dropping a call of the client ends that call.
///
/// # Errors
///
/// None here: an agent that cannot be reached fails the calls.
///
/// # Example
///
/// ```
/// use std::sync::Arc;
/// use qvd_core::hypervisor::Endpoint;
/// use qvd_core::testkit::fakes::FakeVma;
/// use qvd_core::vma::Vma;
/// use qvd_hypervisor::hkd::VmaConnector;
///
/// let agent = FakeVma::new();
/// let _connector: Box<dyn VmaConnector> = Box::new(move |_: &Endpoint| Arc::new(agent.clone()) as Arc<dyn Vma>);
/// ```
pub trait VmaConnector: Send + Sync + 'static {
    /// A client of the agent at `endpoint`; each call may take as long as `timeout`. Connects only when called.
    fn connect(&self, endpoint: &Endpoint, timeout: Duration) -> Arc<dyn Vma>;
}

/// Reaches real agents.
#[derive(Clone, Copy, Debug, Default)]
pub struct RpcConnector;

impl VmaConnector for RpcConnector {
    fn connect(&self, endpoint: &Endpoint, timeout: Duration) -> Arc<dyn Vma> {
        Arc::new(VmaClient::new(endpoint.clone(), timeout))
    }
}

impl<F> VmaConnector for F
where
    F: Fn(&Endpoint) -> Arc<dyn Vma> + Send + Sync + 'static,
{
    fn connect(&self, endpoint: &Endpoint, _timeout: Duration) -> Arc<dyn Vma> {
        self(endpoint)
    }
}

/// Sees every step of a virtual machine's task before it is taken. The step waits for the probe: one that never
/// answers has stopped that task exactly there, which is how tests crash the daemon at each step.
///
/// # Contract
///
/// Only looks: it must not change rows or machines. Names of steps are for people and may change in any release.
///
/// # Cancellation
///
/// The future is dropped when the daemon ends.
///
/// # Errors
///
/// None; the step is taken whatever it thinks.
///
/// # Example
///
/// ```
/// use qvd_core::VmId;
/// use qvd_hypervisor::hkd::Probe;
///
/// #[derive(Default)]
/// struct Steps(std::sync::Mutex<Vec<String>>);
///
/// #[async_trait::async_trait]
/// impl Probe for Steps {
///     async fn reached(&self, vm: VmId, step: &str) {
///         if let Ok(mut steps) = self.0.lock() {
///             steps.push(format!("{vm} {step}"));
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// `step` of this virtual machine is next.
    async fn reached(&self, vm: VmId, step: &str);
}

/// What an operator may ask of a running daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Read the configuration of the database again.
    Reload,
    /// Log how many virtual machines are in which state.
    Report,
    /// End in this way. Once it ends, only [`Shutdown::Abort`] changes anything more.
    Shutdown(Shutdown),
}

/// What a daemon is built from.
///
/// ```no_run
/// # async fn example(db: qvd_db::Db, driver: std::sync::Arc<dyn qvd_core::hypervisor::Hypervisor>) {
/// use qvd_core::config::Config;
/// use qvd_hypervisor::hkd::{self, HkdSettings, Shutdown};
///
/// let settings = HkdSettings::new(db, Config::defaults(), "node1").hypervisor(driver);
/// let outcome = hkd::run(settings, async { Shutdown::Stop }).await;
/// # }
/// ```
pub struct HkdSettings {
    pub(crate) db: Db,
    pub(crate) config: Config,
    pub(crate) node_name: String,
    pub(crate) hypervisors: Vec<Arc<dyn Hypervisor>>,
    pub(crate) vma: Arc<dyn VmaConnector>,
    pub(crate) hooks: Vec<Arc<dyn Hook>>,
    pub(crate) probe: Option<Arc<dyn Probe>>,
    pub(crate) controls: Option<mpsc::Receiver<Control>>,
    pub(crate) ready: Option<oneshot::Sender<()>>,
}

impl std::fmt::Debug for HkdSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let drivers: Vec<_> = self.hypervisors.iter().map(|driver| driver.name()).collect();
        f.debug_struct("HkdSettings")
            .field("node_name", &self.node_name)
            .field("hypervisors", &drivers)
            .finish_non_exhaustive()
    }
}

impl HkdSettings {
    /// A daemon for the host `node_name` of this database. `config` holds the files' settings; those of the database
    /// are laid over it by the daemon itself, and again whenever they change.
    pub fn new(db: Db, config: Config, node_name: impl Into<String>) -> Self {
        Self {
            db,
            config,
            node_name: node_name.into(),
            hypervisors: Vec::new(),
            vma: Arc::new(RpcConnector),
            hooks: Vec::new(),
            probe: None,
            controls: None,
            ready: None,
        }
    }

    /// Adds a driver. The one that `vm.hypervisor` names runs what names no driver; while that key is not set and its
    /// default is not among them, the first.
    #[must_use]
    pub fn hypervisor(mut self, driver: Arc<dyn Hypervisor>) -> Self {
        self.hypervisors.push(driver);
        self
    }

    /// Adds a hook for `prestart`, `poststart` or `poststop`.
    #[must_use]
    pub fn hook(mut self, hook: Arc<dyn Hook>) -> Self {
        self.hooks.push(hook);
        self
    }

    /// Reaches agents in another way.
    #[must_use]
    pub fn vma(mut self, connector: impl VmaConnector) -> Self {
        self.vma = Arc::new(connector);
        self
    }

    /// Lets `probe` see each step of each virtual machine.
    #[must_use]
    pub fn probe(mut self, probe: Arc<dyn Probe>) -> Self {
        self.probe = Some(probe);
        self
    }

    /// Takes an operator's wishes from this channel.
    #[must_use]
    pub fn controls(mut self, controls: mpsc::Receiver<Control>) -> Self {
        self.controls = Some(controls);
        self
    }

    /// Tells when the host is `running` and obeys commands.
    #[must_use]
    pub fn ready(mut self, ready: oneshot::Sender<()>) -> Self {
        self.ready = Some(ready);
        self
    }
}

/// The limits of a driver's virtual machines. Drivers without keys of their own use those of `lxc`.
pub fn vm_limits(config: &Config, driver: &str) -> Limits {
    let of = |state: &str, wait: bool| {
        let key = |name: &str| {
            let suffix = if wait { name } else { "" };
            format!("internal.hkd.{name}.timeout.on_state.{state}{suffix}")
        };
        let name = if config.get(&key(driver)).is_some() { driver } else { "lxc" };
        config.seconds(&key(name))
    };
    let stop = of("stopping.stop.waiting_for_", true);
    let kill = of("zombie.reap.waiting_for_", true);
    let reap_delay = of("zombie.reap.delaying", false);
    let defaults = Limits::default();
    Limits {
        hook: config.seconds("hkd.hook.timeout"),
        shutdown: of("stopping.shutdown.waiting_for_", true),
        stop,
        terminate: defaults.terminate.min(stop / 2),
        kill: kill.min(config.seconds("internal.hkd.fence.kill.timeout").max(Duration::from_secs(1))),
        reap_delay,
        reap_delay_max: reap_delay.saturating_mul(10),
        clear_retry: of("zombie.db.delaying", false),
        debug: config.flag("internal.vm.debug.enable"),
        ..defaults
    }
}

/// The limits of the node's own start and end.
pub fn host_limits(config: &Config) -> HostLimits {
    let answer = config.seconds("internal.hkd.driver.timeout");
    HostLimits {
        stop_vms: config.seconds("internal.hkd.stopping.vms.timeout"),
        kill_retry: config.seconds("internal.hkd.killing.vms.retry.timeout"),
        fence: config.seconds("internal.hkd.fence.kill.timeout"),
        // Rows are read besides.
        adopt: answer.saturating_mul(2),
        adopt_retry: answer / 3,
        ..HostLimits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = Config::defaults();
        let kvm = vm_limits(&config, "kvm");
        assert_eq!((kvm.shutdown, kvm.stop), (seconds(180), seconds(180)));
        for driver in ["lxc", "process"] {
            let limits = vm_limits(&config, driver);
            assert_eq!(
                (limits.shutdown, limits.stop, limits.hook),
                (seconds(180), seconds(120), seconds(60))
            );
            assert_eq!((limits.reap_delay, limits.reap_delay_max), (seconds(60), seconds(600)));
            assert!(!limits.debug);
        }
        let host = host_limits(&config);
        assert_eq!((host.stop_vms, host.kill_retry, host.fence), (seconds(300), seconds(100), seconds(60)));
        assert_eq!((host.adopt, host.adopt_retry), (seconds(60), seconds(10)));
    }

    #[test]
    fn a_test_can_shorten_them() {
        let config = Config::builder()
            .set("internal.hkd.lxc.timeout.on_state.stopping.shutdown.waiting_for_lxc", "0.2")
            .build()
            .unwrap();
        assert_eq!(vm_limits(&config, "process").shutdown, Duration::from_millis(200));
    }
}
