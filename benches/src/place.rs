//! Where the parties are: all on loopback, or the proxies in a network namespace of their own behind a veth pair.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use qvd_system_tests::process::run;
use tokio::net::TcpStream;

/// Addresses of the parties, and how a proxy is started.
#[derive(Clone, Debug)]
pub struct Place {
    proxy: IpAddr,
    desktop: IpAddr,
    namespace: Option<String>,
}

impl Place {
    /// Everything on loopback.
    pub fn loopback() -> Self {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self { proxy: here, desktop: here, namespace: None }
    }

    /// Proxies in this namespace; generator and desktop where the caller is.
    pub fn across(namespace: &str) -> Self {
        Self { proxy: PROXY.into(), desktop: DESKTOP.into(), namespace: Some(namespace.to_owned()) }
    }

    /// Where proxies listen.
    pub fn proxy(&self) -> IpAddr {
        self.proxy
    }

    /// Where proxies find the desktop.
    pub fn desktop(&self) -> IpAddr {
        self.desktop
    }

    /// Where proxies find the desktop of this machine. On loopback each has an address of its own.
    pub fn machine(&self, number: usize) -> IpAddr {
        match self.namespace {
            Some(_) => self.desktop,
            None => Ipv4Addr::new(127, 1, (number >> 8) as u8, number as u8).into(),
        }
    }

    /// A proxy's program, to be started where proxies are.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.namespace {
            None => Command::new(program),
            Some(name) => {
                // It becomes the program: the process is the proxy's.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        }
    }

    /// Waits until somebody accepts on a proxy's port.
    ///
    /// # Errors
    ///
    /// After thirty seconds; the text ends with what the program printed into `log`.
    pub async fn listening(&self, port: u16, who: &str, log: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(SocketAddr::new(self.proxy, port)).await.is_err() {
            if Instant::now() > deadline {
                let printed = fs::read_to_string(log).unwrap_or_default();
                bail!("{who} does not listen on port {port}: {}", printed.trim());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// A port of loopback that was free a moment ago. In a namespace made for the run every port is.
///
/// # Errors
///
/// When there is none.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr().context("a listener has an address")?.port())
}

/// What crosses a veth pair in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// As the kernel has it: up to 64 KiB at once, as a network card that cuts and joins segments itself.
    Joined,
    /// Every frame by itself, as a network card that does neither.
    Frames,
}

/// Two network namespaces joined by a veth pair with MTU 1500; removed with everything in them when dropped.
#[derive(Debug)]
pub struct VethPair {
    clients: String,
    proxies: String,
}

impl VethPair {
    /// Makes them, after those that a killed run left.
    ///
    /// # Errors
    ///
    /// Without root's rights, or where the kernel has no namespaces.
    pub fn make(pieces: Pieces) -> Result<Self> {
        remove_left_over();
        let own = std::process::id();
        let pair = Self { clients: format!("{PREFIX}{own}-c"), proxies: format!("{PREFIX}{own}-p") };
        for name in [&pair.clients, &pair.proxies] {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        ip(&format!(
            "-n {} link add veth0 mtu 1500 type veth peer name veth0 mtu 1500 netns {}",
            pair.clients, pair.proxies
        ))?;
        for (name, address) in [(&pair.clients, DESKTOP), (&pair.proxies, PROXY)] {
            if pieces == Pieces::Frames {
                ip(&format!("-n {name} link set veth0 gso_max_segs 1"))?;
            }
            // Some others pace their frames, and what is measured then is their clock.
            let plain = format!("echo {CONGESTION} > /proc/sys/net/ipv4/tcp_congestion_control");
            run(Command::new("ip").args(["netns", "exec", name, "sh", "-c", &plain]))?;
            ip(&format!("-n {name} address add {address}/24 dev veth0"))?;
            ip(&format!("-n {name} link set veth0 up"))?;
        }
        Ok(pair)
    }

    /// Where generator and desktop are to run.
    pub fn clients(&self) -> &str {
        &self.clients
    }

    /// Where the proxies are to run.
    pub fn proxies(&self) -> &str {
        &self.proxies
    }
}

impl Drop for VethPair {
    fn drop(&mut self) {
        remove(&self.clients);
        remove(&self.proxies);
    }
}

/// Nobody else has a process in there.
fn remove(name: &str) {
    use nix::sys::signal::{Signal, kill};
    let pids = run(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|word| word.parse().ok()) {
        let _ = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
    }
    // There may be none, if making it failed.
    let _ = ip(&format!("netns delete {name}"));
}

fn remove_left_over() {
    let names = run(Command::new("ip").args(["netns", "list"])).unwrap_or_default();
    for name in names.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(name);
        }
    }
}

fn ip(line: &str) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root: ip {line}");
    run(Command::new("ip").args(line.split_whitespace())).map(drop)
}

/// How TCP behaves on a veth pair; every kernel has this one.
pub const CONGESTION: &str = "reno";

const PREFIX: &str = "qvd-bench-";
const DESKTOP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PROXY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_have_addresses_of_their_own_on_loopback() {
        let place = Place::loopback();
        assert_eq!(place.machine(1).to_string(), "127.1.0.1");
        assert_eq!(place.machine(9200).to_string(), "127.1.35.240");
        assert_eq!(Place::across("there").machine(7), Place::across("there").desktop());
    }

    #[test]
    fn a_veth_pair_goes_with_everything_in_it() {
        if !nix::unistd::geteuid().is_root() {
            return qvd_system_tests::skip("network namespaces need root");
        }
        let pair = VethPair::make(Pieces::Frames).unwrap();
        let place = Place::across(pair.proxies());
        let mut sleeper = place.command("sleep").arg("600").spawn().unwrap();
        let here = run(Command::new("ip").args(["-n", pair.clients(), "link", "show", "veth0"])).unwrap();
        assert!(here.contains("mtu 1500"), "{here}");
        let name = pair.proxies().to_owned();
        // It runs there before it is looked for.
        qvd_system_tests::process::wait_until("the sleeper", Duration::from_secs(10), || {
            let pids = run(Command::new("ip").args(["netns", "pids", &name])).ok()?;
            (!pids.trim().is_empty()).then_some(())
        })
        .unwrap();
        drop(pair);
        assert!(!sleeper.wait().unwrap().success(), "it was killed");
        assert!(!run(Command::new("ip").args(["netns", "list"])).unwrap().contains(&name));
    }
}
