// SPDX-License-Identifier: Apache-2.0
//! Random worlds. Pods come, hang in deletion and go; interfaces come and go; pods change what they
//! can change. Records come late, remain or vanish, and agents restart. No pod ever gets an
//! interface of another.

use proptest::{prelude::*, strategy::ValueTree as _};

use super::*;

/// An event.
#[derive(Debug, Clone)]
enum Step {
    /// The pod gets a sandbox: its interface, with the address, and perhaps a record.
    Sandbox { pod: usize, recorded: bool },
    /// The API server shows the pod's address.
    Tell { pod: usize },
    /// The pod's object hangs in deletion. Its sandbox goes, and its address is free.
    Hang { pod: usize },
    /// Object, sandbox and record go.
    Remove { pod: usize },
    /// The pod changes the inside of its interface to this.
    Forge {
        pod: usize,
        addresses: Vec<u8>,
        namespace: i32,
    },
    /// The records vanish.
    NoRecords,
    /// The agent binds.
    Look,
    /// The agent restarts.
    Restart,
}

const PODS: usize = 5;
/// Fewer than pods, so that addresses are used again.
const ADDRESSES: u8 = 4;

fn step() -> impl Strategy<Value = Step> {
    let pod = 0..PODS;
    let forged = proptest::collection::vec(0..ADDRESSES, 0..4);
    prop_oneof![
        4 => (pod.clone(), any::<bool>()).prop_map(|(pod, recorded)| Step::Sandbox { pod, recorded }),
        4 => pod.clone().prop_map(|pod| Step::Tell { pod }),
        2 => pod.clone().prop_map(|pod| Step::Hang { pod }),
        1 => pod.clone().prop_map(|pod| Step::Remove { pod }),
        3 => (pod, forged, 50..53i32).prop_map(|(pod, addresses, namespace)| Step::Forge { pod, addresses, namespace }),
        1 => Just(Step::NoRecords),
        4 => Just(Step::Look),
        1 => Just(Step::Restart),
    ]
}

/// The real state.
#[derive(Debug, Default)]
struct Truth {
    stage: Stage,
    /// Interface and address of each pod that has a sandbox.
    sandboxes: BTreeMap<usize, (u32, u8)>,
    /// Generation of each pod's name: each one is another pod.
    lives: [u32; PODS],
    next: u32,
}

impl Truth {
    fn name(pod: usize) -> String {
        format!("pod-{pod}")
    }

    fn uid(&self, pod: usize) -> String {
        format!("{pod}-{}", self.lives[pod])
    }

    fn address(address: u8) -> String {
        format!("10.0.0.{address}")
    }

    fn play(&mut self, step: &Step) {
        match step {
            Step::Sandbox { pod, recorded } => {
                let name = Self::name(*pod);
                let hangs = self
                    .stage
                    .pods
                    .get(&key(&name))
                    .is_some_and(|pod| pod.terminating);
                let used: BTreeSet<u8> = self.sandboxes.values().map(|(_, address)| *address).collect();
                let free = (0..ADDRESSES).find(|address| !used.contains(address));
                let (false, false, Some(address)) = (self.sandboxes.contains_key(pod), hangs, free) else {
                    return;
                };
                self.next += 1;
                self.stage.veth(self.next, &[&Self::address(address)]);
                self.sandboxes.insert(*pod, (self.next, address));
                // The agent sees it before a container runs.
                self.stage.bind();
                if *recorded {
                    let uid = self.uid(*pod);
                    self.stage
                        .record(self.next, &name, &uid, &[&Self::address(address)]);
                }
            }
            Step::Tell { pod } => {
                if let Some((_, address)) = self.sandboxes.get(pod) {
                    let (uid, address) = (self.uid(*pod), Self::address(*address));
                    self.stage.pod(&Self::name(*pod), &uid, &[&address]);
                }
            }
            Step::Hang { pod } => {
                if let Some(object) = self.stage.pods.get_mut(&key(&Self::name(*pod))) {
                    object.terminating = true;
                    self.end(*pod);
                }
            }
            Step::Remove { pod } => {
                self.stage.pods.remove(&key(&Self::name(*pod)));
                self.end(*pod);
                let uid = self.uid(*pod);
                self.stage.records.retain(|_, record| record.uid != uid);
                self.lives[*pod] += 1;
            }
            Step::Forge {
                pod,
                addresses,
                namespace,
            } => {
                if let Some((ifindex, _)) = self.sandboxes.get(pod) {
                    // In the agent, the reader of interfaces drops what was not there first. Here
                    // the binding must.
                    let interface = self.stage.interfaces.pods.get_mut(ifindex).unwrap();
                    let texts = addresses
                        .iter()
                        .map(|address| Self::address(*address).parse().unwrap());
                    interface.addresses = texts.collect();
                    interface.peer_mac = Some([0xee; 6]);
                    interface.namespace = *namespace + *pod as i32 * 10;
                }
            }
            Step::NoRecords => self.stage.records.clear(),
            Step::Look => drop(self.stage.bind()),
            Step::Restart => self.stage.restart(),
        }
    }

    fn end(&mut self, pod: usize) {
        if let Some((ifindex, _)) = self.sandboxes.remove(&pod) {
            self.stage.interfaces.pods.remove(&ifindex);
        }
    }

    /// Returns true if the API server shows the pod and its address.
    fn is_told(&self, pod: usize) -> bool {
        let (Some(known), Some((_, address))) = (
            self.stage.pods.get(&key(&Self::name(pod))),
            self.sandboxes.get(&pod),
        ) else {
            return false;
        };
        known.uid == self.uid(pod)
            && known
                .addresses
                .contains(&Self::address(*address).parse().unwrap())
    }

    /// Returns the real owner of an interface.
    fn owner(&self, ifindex: u32) -> Option<usize> {
        let mut all = self.sandboxes.iter();
        all.find(|(_, (own, _))| *own == ifindex).map(|(pod, _)| *pod)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// An interface is never another pod's. A known pod whose sandbox was seen always has its own.
    #[test]
    fn a8_no_interface_is_ever_another_pods(steps in proptest::collection::vec(step(), 1..60)) {
        let mut truth = Truth::default();
        for step in &steps {
            truth.play(step);
            let before = truth.stage.bindings.clone();
            let bound = truth.stage.bind();
            for (ifindex, first) in &bound.pods {
                let owner = truth.owner(*ifindex).unwrap();
                let link = &bound.links[ifindex];
                // Until the pod is known, the previous owner of its address may have the interface.
                if truth.is_told(owner) {
                    let name = Truth::name(owner);
                    let mut claimants = link.rivals.iter().chain([first]);
                    prop_assert!(claimants.any(|key| *key.name == *name), "{:?} of {:?}: {}", step, before, told(&bound));
                }
            }
            for (pod, (ifindex, _)) in &truth.sandboxes {
                if truth.is_told(*pod) {
                    prop_assert!(bound.pods.contains_key(ifindex), "{:?}: {} is open: {}", step, ifindex, told(&bound));
                }
            }
        }
    }

    /// An agent that starts late and knows nothing never takes another pod's interface for an
    /// honest pod's.
    #[test]
    fn a8_a_late_agent_takes_nobody_for_an_honest_pod(
        steps in proptest::collection::vec(step(), 1..40),
        forged in proptest::collection::vec((0..PODS, proptest::collection::vec(0..ADDRESSES, 0..4)), 0..3),
    ) {
        let mut truth = Truth::default();
        for step in &steps {
            if !matches!(step, Step::Forge { .. }) {
                truth.play(step);
            }
        }
        // Each pod is live and known, or hangs in deletion.
        for pod in 0..PODS {
            truth.play(&Step::Tell { pod });
        }
        let dishonest: BTreeSet<usize> = forged.iter().map(|(pod, _)| *pod).collect();
        for (pod, addresses) in &forged {
            truth.play(&Step::Forge { pod: *pod, addresses: addresses.clone(), namespace: 50 });
        }
        truth.stage.records.clear();
        truth.stage.forget();
        let bound = truth.stage.bind();
        for (ifindex, key) in &bound.pods {
            let owner = truth.owner(*ifindex).unwrap();
            let link = &bound.links[ifindex];
            let alone = !link.closed && link.rivals.is_empty();
            let honest_name = (0..PODS).filter(|pod| !dishonest.contains(pod)).any(|pod| *key.name == *Truth::name(pod));
            let hangs = truth.stage.pods[key].terminating;
            if alone && honest_name && !hangs {
                prop_assert_eq!(&*key.name, &*Truth::name(owner), "{}", told(&bound));
            }
        }
    }
}

/// The properties above are worthless if the worlds are empty.
#[test]
fn a8_random_worlds_have_what_they_are_about() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut hung, mut forged) = (0, 0);
    for _ in 0..200 {
        let steps = proptest::collection::vec(step(), 1..60);
        let steps = steps.new_tree(&mut runner).unwrap().current();
        let mut truth = Truth::default();
        for step in &steps {
            truth.play(step);
            let reused = truth.stage.pods.values().any(|old| {
                old.terminating
                    && truth
                        .stage
                        .pods
                        .values()
                        .any(|new| !new.terminating && new.addresses == old.addresses)
            });
            hung += usize::from(reused);
            forged +=
                usize::from(matches!(step, Step::Forge { pod, .. } if truth.sandboxes.contains_key(pod)));
        }
    }
    assert!(hung > 20 && forged > 100, "{hung} {forged}");
}
