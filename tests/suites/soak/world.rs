// SPDX-License-Identifier: Apache-2.0
//! The node, its lasting pods, the objects, and the agent, whose answer tells what is in force.

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use netpol_agent::datapath::{pin, pin_folder};
use netpol_tests::{
    agent::{Agent, DEADLINE, Launch},
    manifests::ManifestDir,
    node::{Node, Plan, Site, member},
    privilege::binary,
};
use serde_json::{Value, json};

use super::{
    diary::{Diary, pause},
    resources::{Seen, Usage},
    ward::sent_at,
};

/// Lasting pods, with host number and label. Client and server talk. The swing is closed to the
/// stranger now and then. The mute may send nothing. By its policy the canary tells what is in
/// force.
const PODS: [(&str, u16, &str); 6] = [
    ("shop/client", 10, "client"),
    ("shop/server", 11, "server"),
    ("shop/swing", 12, "swing"),
    ("shop/canary", 13, "canary"),
    ("other/stranger", 14, "stranger"),
    ("other/mute", 15, "mute"),
];

/// Rules of the server that allow the same, in different ways.
pub const SERVER: [&str; 4] = [
    "ingress: [{from: [{podSelector: {matchLabels: {app: client}}}, OUTSIDE]}]",
    "ingress: [{from: [{ipBlock: {cidr: 10.244.0.10/32}}, {ipBlock: {cidr: \"fd00:10:244::a/128\"}}, OUTSIDE]}]",
    "ingress: [{ports: [{protocol: UDP}, {protocol: TCP, port: 1, endPort: 65535}], \
     from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}, podSelector: {matchLabels: {app: client}}}, OUTSIDE]}]",
    "ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [client, nobody]}]}}]}, {from: [OUTSIDE]}]",
];

/// The same of the client.
pub const CLIENT: [&str; 4] = [
    "egress: [{to: [{podSelector: {matchLabels: {app: server}}}, OUTSIDE]}]",
    "egress: [{to: [{ipBlock: {cidr: 10.244.0.8/29, except: [10.244.0.12/30]}}, {ipBlock: {cidr: \"fd00:10:244::b/128\"}}, OUTSIDE]}]",
    "egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: server}}}]}, {to: [OUTSIDE]}]",
    "egress: [{ports: [{protocol: TCP}], to: [{podSelector: {matchLabels: {app: server}}}, OUTSIDE]}, \
     {ports: [{protocol: UDP, port: 53000, endPort: 65000}], to: [{podSelector: {matchLabels: {app: server}}}, OUTSIDE]}]",
];

const OUTSIDE: &str = "{ipBlock: {cidr: 198.51.100.10/32}}, {ipBlock: {cidr: \"2001:db8:1::/64\", except: [\"2001:db8:1::1/128\"]}}";

/// Rules of the swing that allow the stranger, and that do not.
pub const SWING: [&str; 2] = [
    "ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}, podSelector: {matchLabels: {app: stranger}}}]}]",
    "ingress: []",
];

/// Guests talk to each other, and to nobody else.
const GUEST: &str = "ingress: [{from: [{podSelector: {matchLabels: {app: guest}}}]}]\n  egress: [{to: [{podSelector: {matchLabels: {app: guest}}}]}]";

/// Ports that allowed connections may have: denied packets have others.
const PORTS: (&str, &str) = ("net/ipv4/ip_local_port_range", "53000 65000");

/// The last lives whose logs are kept.
const LIVES: usize = 40;

/// Binary of another version, to go to and back from. Without it, what is pinned gets the name of
/// another version.
const OTHER: &str = "NETPOL_SOAK_OTHER";

/// How the programs are attached.
const ATTACH: &str = "NETPOL_SOAK_ATTACH";

/// Denied packets are many, and the kernel's connection tracking has room for so many only.
const SHORT: [(&str, &str); 2] = [
    ("net/netfilter/nf_conntrack_udp_timeout", "10"),
    ("net/netfilter/nf_conntrack_tcp_timeout_syn_sent", "10"),
];

/// Everything. Fields are in the order of dropping.
pub struct World {
    pub agent: Agent,
    pub manifests: ManifestDir,
    pub node: Node,
    pub diary: Arc<Diary>,
    pub seen: Seen,
    /// Use of each life of the agent at its end.
    pub lives: Vec<Usage>,
    pub logs: Vec<String>,
    /// Lines about errors in the logs of all lives.
    pub errors: Vec<String>,
    canary: u64,
    versions: u32,
    binaries: Option<[PathBuf; 2]>,
}

impl World {
    /// Makes the node, and starts the agent.
    pub fn new(diary: Arc<Diary>) -> Result<Self> {
        let mut node = Node::new(Plan::first("node-a"))?;
        // A bridge without an address of its own takes the least of its ports: it would change with
        // each pod, and the pods would go on to send to the old one for a while.
        node.netns().ip("link set cni0 address 02:00:0a:f4:00:01\n")?;
        let called = ["iptables", "ip6tables"].map(|which| format!("net/bridge/bridge-nf-call-{which}"));
        node.netns()
            .sysctl(&called.each_ref().map(|key| (key.as_str(), "1")))?;
        // As kube-proxy's rules do, these make the node track connections.
        const TRACK: &str = "table inet track { chain arriving { type filter hook prerouting priority 0; ct state new counter; }; }\n";
        node.netns().feed("nft", &["-f", "-"], TRACK)?;
        node.netns().sysctl(&SHORT)?;
        let manifests = ManifestDir::new()?;
        for (name, host, label) in PODS {
            let site = node.add_pod(name, &addresses(node.plan(), host))?;
            site.netns.sysctl(&[PORTS])?;
            manifests.write(&file_of(name), &pod(&site, label, ""))?;
        }
        node.outside().netns.sysctl(&[PORTS])?;
        manifests.write("server.yaml", &policy("server", SERVER[0]))?;
        manifests.write("client.yaml", &policy("client", CLIENT[0]))?;
        manifests.write("swing.yaml", &policy("swing", SWING[1]))?;
        manifests.write("guest.yaml", &policy("guest", GUEST))?;
        manifests.write(
            "mute.yaml",
            &policy("mute", "egress: []").replace("shop", "other"),
        )?;
        let mut launch = Launch::new(manifests.path(), &node.plan().name);
        launch
            .arguments
            .extend(["--startup-mode", "strict", "--resync", "2"].map(std::ffi::OsString::from));
        let attach = std::env::var_os(ATTACH).unwrap_or_else(|| "tcx".into());
        launch.arguments.extend(["--attach".into(), attach]);
        for net in node.plan().pod_networks() {
            launch
                .arguments
                .extend(["--pod-cidr".into(), net.to_string().into()]);
        }
        let agent = Agent::launch(&node, launch)?;
        agent.wait_for_revision_after(0)?;
        let other = std::env::var_os(OTHER).map(PathBuf::from);
        let mut world = Self {
            agent,
            manifests,
            node,
            diary,
            seen: Seen::default(),
            lives: Vec::new(),
            logs: Vec::new(),
            errors: Vec::new(),
            canary: 0,
            versions: 0,
            binaries: other
                .map(|other| -> Result<_> {
                    ensure!(other.is_file(), "{OTHER}: no file {}", other.display());
                    Ok([binary().context("no agent")?, other])
                })
                .transpose()?,
        };
        world.seen.note(world.agent.pin_path())?;
        world.settle()?;
        Ok(world)
    }

    pub fn site(&self, name: &str) -> Result<Site> {
        match name {
            "outside" => Ok(self.node.outside()),
            pod => self.node.pod(pod),
        }
    }

    /// What `netpol status` says.
    fn status(&self) -> Result<Value> {
        let mut command = Command::new(binary().context("no agent")?);
        command.args(["status", "-o", "json", "--socket"]);
        let output = command.arg(self.agent.socket()).output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).with_context(|| format!("netpol status: {told}"))
    }

    /// Waits until `netpol status` says so.
    pub fn wait_for(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let until = Instant::now() + DEADLINE;
        loop {
            let status = self.status();
            if status.as_ref().is_ok_and(&holds) {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("waiting for {what}: time is up; {status:#?}");
            }
            pause(Duration::from_millis(5));
        }
    }

    /// Waits until all that was written is in force: a policy that is written last is.
    pub fn settle(&mut self) -> Result<()> {
        self.canary += 1;
        let name = format!("canary-{}", self.canary);
        let text = policy("canary", "ingress: []").replace("name: canary", &format!("name: {name}"));
        self.manifests.write("canary.yaml", &text)?;
        let told = json!([name]);
        self.wait_for(&name, |status| {
            of_pod(status, "shop/canary").is_some_and(|pod| pod["ingress"]["policies"] == told)
        })
    }

    /// Writes or replaces a pod's object. `more` are labels.
    pub fn announce(&self, name: &str, label: &str, more: &str) -> Result<()> {
        let text = pod(&self.node.pod(name)?, label, more);
        self.manifests.write(&file_of(name), &text)
    }

    /// Adds the interfaces of pods, as a runtime does before there is an object.
    pub fn add_interfaces(&mut self, pods: &[(String, u16)]) -> Result<Vec<Site>> {
        let plan = self.node.plan().clone();
        let pods: Vec<_> = pods
            .iter()
            .map(|(name, host)| (name.clone(), addresses(&plan, *host)))
            .collect();
        self.node.add_pods(&pods)?;
        let sites: Vec<Site> = pods
            .iter()
            .map(|(name, _)| self.node.pod(name))
            .collect::<Result<_>>()?;
        for site in &sites {
            site.netns.sysctl(&[PORTS])?;
        }
        Ok(sites)
    }

    /// Notes what a life of the agent used, and ends it.
    pub fn end_life(&mut self, by_kill: bool) -> Result<()> {
        if let Some(pid) = self.agent.pid() {
            self.lives.push(Usage::read(pid)?);
        }
        if by_kill {
            self.agent.kill()?;
        } else {
            self.agent.stop()?;
        }
        self.keep_log();
        Ok(())
    }

    /// Notes the log of a life that ended.
    pub fn keep_log(&mut self) {
        let log = self.agent.log();
        let errors = log.lines().filter(|line| line.contains(r#""level":"ERROR""#));
        self.errors.extend(errors.map(str::to_owned));
        if log.contains("panicked at") {
            self.diary.fault("the agent panicked");
        }
        let lines = log.lines().filter(|line| !is_of_stranger(line));
        self.logs.push(lines.collect::<Vec<_>>().join("\n"));
        if self.logs.len() > LIVES {
            self.logs.remove(0);
        }
    }

    /// Starts the agent, and waits until it enforces what is written.
    pub fn start_life(&mut self) -> Result<()> {
        self.agent.restart()?;
        self.seen.note(self.agent.pin_path())?;
        self.settle()
    }

    /// While no agent runs: the next one is of another version than the last one.
    pub fn change_version(&mut self) -> Result<()> {
        self.versions += 1;
        if let Some(binaries) = &self.binaries {
            let next = &binaries[self.versions as usize % 2];
            self.diary.event(format!("version of {}", next.display()));
            self.agent.set_binary(next);
            return Ok(());
        }
        let own = pin_folder(self.agent.pin_path());
        // An agent that was killed at once has pinned nothing.
        if own.exists() {
            let other = self.agent.pin_path().join(format!("v{}", 1000 + self.versions));
            fs::rename(&own, &other).with_context(|| format!("renaming {}", own.display()))?;
        }
        Ok(())
    }

    /// While no agent runs: counters and events are of another version than the next one's.
    pub fn change_counters(&mut self) -> Result<()> {
        let pin = pin(self.agent.pin_path(), "counters");
        let own = pin.parent().context("no folder")?;
        if own.exists() {
            let other = own.with_file_name(format!("observed-{:08x}", self.versions));
            self.versions += 1;
            fs::rename(own, other).with_context(|| format!("renaming {}", own.display()))?;
        }
        Ok(())
    }

    /// What the agent uses while nobody asks it anything.
    pub fn usage(&self) -> Result<Usage> {
        let pid = self.agent.pid().context("no agent runs")?;
        let mut least = Usage::read(pid)?;
        for _ in 0..20 {
            pause(Duration::from_millis(50));
            let now = Usage::read(pid)?;
            least.resident = now.resident;
            least.descriptors = least.descriptors.min(now.descriptors);
        }
        Ok(least)
    }
}

/// Returns true for a line of the log about a packet that a stranger sent.
fn is_of_stranger(line: &str) -> bool {
    if !line.contains("packet dropped") {
        return false;
    }
    let line: Value = serde_json::from_str(line).unwrap_or_default();
    let port = line["fields"]["port"].as_u64();
    port.is_some_and(|port| sent_at(port as u16, 0).is_some())
}

/// What the status says of a pod.
pub fn of_pod<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    let pods = status["pods"].as_array()?;
    pods.iter().find(|pod| {
        let own = [&pod["namespace"], &pod["name"]].map(Value::as_str);
        matches!(own, [Some(namespace), Some(own)] if name == format!("{namespace}/{own}"))
    })
}

pub fn file_of(pod: &str) -> String {
    format!("pod-{}.yaml", pod.replace('/', "-"))
}

/// A policy in namespace `shop` for pods with label `app: NAME`.
pub fn policy(name: &str, rules: &str) -> String {
    let rules = rules.replace("OUTSIDE", OUTSIDE);
    // The client accepts nothing, and the server opens nothing.
    let types = match name {
        "swing" | "canary" => "[Ingress]",
        "mute" => "[Egress]",
        _ => "[Ingress, Egress]",
    };
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: {name}}}}}\n  policyTypes: {types}\n  {rules}\n"
    )
}

fn pod(site: &Site, label: &str, more: &str) -> String {
    let (namespace, name) = site.name.split_once('/').unwrap_or_default();
    let ips: Vec<String> = site
        .addresses
        .iter()
        .map(|ip| format!("{{ip: \"{ip}\"}}"))
        .collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{app: {label}{more}}}}}\n\
         spec: {{nodeName: node-a, containers: [{{name: main, image: example}}]}}\n\
         status: {{phase: Running, podIPs: [{}]}}\n",
        ips.join(", ")
    )
}

fn addresses(plan: &Plan, host: u16) -> Vec<IpAddr> {
    plan.pod_networks().map(|net| member(net, host).addr()).to_vec()
}
