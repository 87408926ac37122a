//! From addresses and settings to the words of `ip`. Pure.

use std::net::Ipv4Addr;

use qvd_core::VmId;
use qvd_core::hypervisor::Endpoint;
use serde::{Deserialize, Serialize};

/// The bridge that machines are attached to, and what they are told of its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSettings {
    /// The bridge (`vm.network.bridge`).
    pub bridge: String,
    /// How names of the host's interfaces begin (`internal.vm.network.device.prefix`).
    pub device_prefix: String,
    /// How hardware addresses begin (`vm.network.mac.prefix`).
    pub mac_prefix: String,
    /// Bits of the network's mask (`vm.network.netmask`).
    pub mask_bits: Option<u8>,
    /// Default route (`vm.network.gateway`).
    pub gateway: Option<Ipv4Addr>,
    /// TCP port of the agent (`internal.vm.port.vma`).
    pub vma_port: u16,
}

/// The network of one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineNetwork {
    /// The bridge.
    pub bridge: String,
    /// The host's end.
    pub device: String,
    /// Whose it is: no two installations on one host have the same.
    pub owner: String,
    /// Hardware address of the machine's end.
    pub mac: String,
    /// The machine's address.
    pub address: Ipv4Addr,
    /// Bits of the mask.
    pub mask_bits: u8,
    /// Default route.
    pub gateway: Option<Ipv4Addr>,
    /// TCP port of the agent.
    pub vma_port: u16,
    /// TCP port of the desktop.
    pub x_port: u16,
}

impl MachineNetwork {
    /// The network of a machine with this address; its desktop is on X display `display`.
    ///
    /// # Errors
    ///
    /// What is wrong and what to do, as text.
    pub fn new(
        settings: &BridgeSettings,
        owner: &str,
        vm: VmId,
        address: Option<&str>,
        display: u32,
    ) -> Result<Self, String> {
        let address = address
            .filter(|text| !text.is_empty())
            .ok_or("it has no address for its network: qa vm edit … ip=…, or set vm.process.network=host")?;
        let address: Ipv4Addr =
            address.parse().map_err(|_| format!("'{address}' is no IPv4 address: qa vm edit … ip=…"))?;
        let mask_bits =
            settings.mask_bits.ok_or("the mask of its network is not known: set vm.network.netmask")?;
        let device = format!("{}{vm}", settings.device_prefix);
        if device.len() > LONGEST_DEVICE {
            return Err(format!(
                "'{device}' is too long for an interface: shorten internal.vm.network.device.prefix"
            ));
        }
        let x_port = u16::try_from(NX_PORTS + display)
            .map_err(|_| format!("display {display} has no port: lower internal.nxagent.display"))?;
        let [_, b, c, d] = address.octets();
        Ok(Self {
            bridge: settings.bridge.clone(),
            device,
            owner: owner.to_owned(),
            mac: format!("{}:{b:02x}:{c:02x}:{d:02x}", settings.mac_prefix),
            address,
            mask_bits,
            gateway: settings.gateway,
            vma_port: settings.vma_port,
            x_port,
        })
    }

    /// Where agent and desktop are reached.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Ip { address: self.address.into(), vma_port: self.vma_port, x_port: self.x_port }
    }

    /// What is done on the host once the machine's network namespace is there, that of process `init`.
    pub fn on_the_host(&self, init: i32) -> Vec<Vec<String>> {
        let device = &self.device;
        [
            format!("link add name {device} type veth peer name {INSIDE} address {} netns {init}", self.mac),
            format!("link set dev {device} alias {}", self.owner),
            format!("link set dev {device} master {} up", self.bridge),
        ]
        .iter()
        .map(|line| words(line))
        .collect()
    }

    /// What is done inside, where the other end is.
    pub fn inside(&self) -> Vec<Vec<String>> {
        let mut lines = vec![
            "link set dev lo up".to_owned(),
            format!("address add {}/{} broadcast + dev {INSIDE}", self.address, self.mask_bits),
            format!("link set dev {INSIDE} up"),
        ];
        lines.extend(self.gateway.map(|gateway| format!("route add default via {gateway} dev {INSIDE}")));
        lines.iter().map(|line| words(line)).collect()
    }
}

/// No part of these lines is foreign text: names are checked by the kernel, addresses were parsed, and an owner is one
/// path component.
fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// What the machine calls its end.
const INSIDE: &str = "eth0";

/// What the kernel takes as an interface's name.
const LONGEST_DEVICE: usize = 15;

/// An X server of NX listens on this port plus its display.
const NX_PORTS: u32 = 4000;

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> BridgeSettings {
        BridgeSettings {
            bridge: "qvdnet".into(),
            device_prefix: "qvd".into(),
            mac_prefix: "54:52:00".into(),
            mask_bits: Some(16),
            gateway: Some(Ipv4Addr::new(10, 3, 15, 1)),
            vma_port: 3030,
        }
    }

    fn network() -> MachineNetwork {
        MachineNetwork::new(&settings(), "n1-ab", VmId::new(7), Some("10.3.15.254"), 100).unwrap()
    }

    #[test]
    fn a_machine_is_reached_at_its_address() {
        let network = network();
        assert_eq!(network.mac, "54:52:00:03:0f:fe");
        let endpoint = Endpoint::Ip { address: [10, 3, 15, 254].into(), vma_port: 3030, x_port: 4100 };
        assert_eq!(network.endpoint(), endpoint);
    }

    #[test]
    fn both_ends_are_set_up() {
        let lines = |all: Vec<Vec<String>>| all.iter().map(|words| words.join(" ")).collect::<Vec<_>>();
        assert_eq!(
            lines(network().on_the_host(42)),
            [
                "link add name qvd7 type veth peer name eth0 address 54:52:00:03:0f:fe netns 42",
                "link set dev qvd7 alias n1-ab",
                "link set dev qvd7 master qvdnet up"
            ]
        );
        assert_eq!(
            lines(network().inside()),
            [
                "link set dev lo up",
                "address add 10.3.15.254/16 broadcast + dev eth0",
                "link set dev eth0 up",
                "route add default via 10.3.15.1 dev eth0"
            ]
        );
        let lonely = MachineNetwork { gateway: None, ..network() };
        assert_eq!(lonely.inside().len(), 3);
    }

    #[test]
    fn what_is_missing_is_named_with_its_key() {
        let refused = |settings: &BridgeSettings, address, display| {
            MachineNetwork::new(settings, "n1", VmId::new(7), address, display).unwrap_err()
        };
        assert!(refused(&settings(), None, 100).contains("vm.process.network=host"));
        assert!(refused(&settings(), Some("desk"), 100).contains("'desk'"));
        let no_mask = BridgeSettings { mask_bits: None, ..settings() };
        assert!(refused(&no_mask, Some("10.0.0.1"), 100).contains("vm.network.netmask"));
        let long = BridgeSettings { device_prefix: "a-very-long-one".into(), ..settings() };
        assert!(refused(&long, Some("10.0.0.1"), 100).contains("device.prefix"));
        assert!(refused(&settings(), Some("10.0.0.1"), 65_000).contains("internal.nxagent.display"));
    }
}
