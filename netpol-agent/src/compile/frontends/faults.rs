// SPDX-License-Identifier: Apache-2.0
//! Services at addresses of pods or nodes (rule A9).

use std::{collections::BTreeMap, net::IpAddr};

use super::{Frontend, Frontends};
use crate::{
    compile::{
        fault::{Fault, Findings, Topic, diagnostic},
        profiles::Profiles,
    },
    model::{ObjectKey, Service},
};

impl Frontends {
    /// Reports the addresses that a Service claims and does not get: one finding for all of them.
    pub(super) fn report_refused(
        &self,
        (key, service): (&ObjectKey, Option<&Service>),
        profiles: &Profiles,
        findings: &mut Findings,
    ) {
        let frontends = self.services.get(key).into_iter().flat_map(BTreeMap::keys);
        let fault = service.and_then(|service| refusal(service, frontends, profiles));
        let found = fault.map(|fault| diagnostic("Service", key, fault));
        findings.report(Topic::Refused(key.clone()), found.into_iter().collect());
    }
}

fn refusal<'a>(
    service: &Service,
    frontends: impl Iterator<Item = &'a Frontend>,
    profiles: &Profiles,
) -> Option<Fault> {
    let owned: BTreeMap<IpAddr, String> = frontends
        .filter_map(|frontend| Some((frontend.address, profiles.owner(frontend.address)?.name)))
        .collect();
    let (address, owner) = owned.first_key_value()?;
    let claims = |all: &[IpAddr]| all.iter().any(|known| known.to_canonical() == *address);
    let field = match service {
        service if claims(&service.external_ips) => "spec.externalIPs",
        service if claims(&service.load_balancer_ips) => "status.loadBalancer.ingress",
        _ => "spec.clusterIPs",
    };
    let more = match owned.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more like it)"),
    };
    let message = format!(
        "{address}{more} is an address of {owner}; policy judges it as that, whatever the Service says"
    );
    Some(Fault::new("frontend-refused", field, message))
}
