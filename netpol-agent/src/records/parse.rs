// SPDX-License-Identifier: Apache-2.0
//! Parses the fields we need from one file of libcni's cache (`kind: cniCacheV1`).

use std::{io, net::IpAddr, time::SystemTime};

use serde::Deserialize;
use thiserror::Error;

use super::Record;
use crate::{datapath::interfaces::Mac, model::ObjectKey};

/// Maximum number of interfaces and of addresses in a record.
const MAX_ENTRIES: usize = 64;
/// Maximum length of a pod's or namespace's name and of a UID; Kubernetes' are shorter.
const MAX_NAME: usize = 253;

#[derive(Debug, Error)]
pub(super) enum ParseError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not the JSON of a cached result: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Content(&'static str),
}

impl ParseError {
    /// Returns true if the text ends too early.
    pub(super) fn is_cut_short(&self) -> bool {
        matches!(self, Self::Json(error) if error.is_eof())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    kind: Option<String>,
    if_name: Option<String>,
    network_name: Option<String>,
    cni_args: Option<Vec<Vec<String>>>,
    result: Option<CniResult>,
}

#[derive(Deserialize)]
struct CniResult {
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Ip>>,
}

#[derive(Deserialize)]
struct Interface {
    name: Option<String>,
    mac: Option<String>,
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Ip {
    address: Option<String>,
}

/// Parses one file; `None` if it is not a pod's attachment.
pub(super) fn record(bytes: &[u8], written: SystemTime) -> Result<Option<Record>, ParseError> {
    let cached: Cached = serde_json::from_slice(bytes)?;
    if cached.kind.as_deref() != Some("cniCacheV1") {
        return Ok(None);
    }
    let arguments = cached.cni_args.unwrap_or_default();
    let argument = |name: &str| {
        let mut named = arguments.iter().filter_map(|pair| match pair.as_slice() {
            [key, value] if key == name => Some(value.as_str()),
            _ => None,
        });
        named.next().unwrap_or_default()
    };
    let (namespace, name) = (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME"));
    if namespace.is_empty() || name.is_empty() {
        // The runtime attaches other containers to networks too.
        return Ok(None);
    }
    let uid = argument("K8S_POD_UID");
    if [namespace, name, uid].iter().any(|text| text.len() > MAX_NAME) {
        return Err(ParseError::Content(
            "the name of the pod is longer than one can be",
        ));
    }
    let interface = cached.if_name.unwrap_or_default();
    let result = cached.result.unwrap_or(CniResult {
        interfaces: None,
        ips: None,
    });
    // Results of old versions list no interfaces.
    let interfaces = result.interfaces.unwrap_or_default();
    let addresses = result.ips.unwrap_or_default();
    if interfaces.len() > MAX_ENTRIES || addresses.len() > MAX_ENTRIES {
        return Err(ParseError::Content(
            "it lists more interfaces or addresses than a pod can have",
        ));
    }
    let mut on_node = Vec::new();
    let mut mac = None;
    for listed in interfaces {
        let found = listed.mac.as_deref().and_then(mac_address);
        let listed_name = listed.name.unwrap_or_default();
        if listed.sandbox.is_some_and(|sandbox| !sandbox.is_empty()) {
            if listed_name == interface {
                mac = found;
            }
        } else if let Some(found) = found {
            on_node.push((listed_name, found));
        }
    }
    let addresses = addresses.iter().filter_map(|ip| {
        let text = ip.address.as_deref()?;
        let address: IpAddr = text
            .split_once('/')
            .map_or(text, |(address, _)| address)
            .parse()
            .ok()?;
        Some(address.to_canonical())
    });
    Ok(Some(Record {
        pod: ObjectKey::new(namespace, name),
        uid: uid.to_owned(),
        network: cached.network_name.unwrap_or_default(),
        interface,
        on_node,
        mac,
        addresses: addresses.collect(),
        written,
    }))
}

/// Parses `aa:bb:cc:dd:ee:ff`, in any case.
fn mac_address(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac != Mac::default()).then_some(mac)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record as the bridge plugin's result gives it.
    pub(in crate::records) fn bridge(pod: &str, uid: &str, veth: &str) -> String {
        serde_json::json!({
            "kind": "cniCacheV1",
            "containerId": "c0ffee",
            "config": "eyJjbmlWZXJzaW9uIjoiMS4wLjAifQ==",
            "ifName": "eth0",
            "networkName": "cbr0",
            "netns": "/var/run/netns/cni-1",
            "cniArgs": [
                ["IgnoreUnknown", "1"],
                ["K8S_POD_NAMESPACE", "shop"],
                ["K8S_POD_NAME", pod],
                ["K8S_POD_INFRA_CONTAINER_ID", "c0ffee"],
                ["K8S_POD_UID", uid],
            ],
            "capabilityArgs": null,
            "result": {
                "cniVersion": "1.0.0",
                "dns": {},
                "interfaces": [
                    {"mac": "02:00:00:00:00:01", "name": "cni0"},
                    {"mac": "0A:0b:00:00:00:02", "name": veth},
                    {"mac": "02:00:00:00:00:03", "name": "eth0", "sandbox": "/var/run/netns/cni-1"},
                ],
                "ips": [
                    {"address": "10.244.0.5/24", "gateway": "10.244.0.1", "interface": 2},
                    {"address": "fd00::5/64", "interface": 2},
                ],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        })
        .to_string()
    }

    fn parsed(value: &serde_json::Value) -> Result<Option<Record>, ParseError> {
        record(value.to_string().as_bytes(), SystemTime::UNIX_EPOCH)
    }

    fn value() -> serde_json::Value {
        serde_json::from_str(&bridge("web", "u-1", "veth0")).unwrap()
    }

    #[test]
    fn a8_a_result_of_the_bridge_plugin_is_read() {
        let read = parsed(&value()).unwrap().unwrap();
        assert_eq!(
            (read.pod.to_string().as_str(), read.uid.as_str()),
            ("shop/web", "u-1")
        );
        assert!(read.names("veth0", [0x0a, 0x0b, 0, 0, 0, 2]));
        assert!(
            !read.names("veth0", [0x0a, 0x0b, 0, 0, 0, 3]) && !read.names("veth1", [0x0a, 0x0b, 0, 0, 0, 2])
        );
        assert_eq!(read.mac, Some([2, 0, 0, 0, 0, 3]));
        let addresses: Vec<_> = read.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.244.0.5", "fd00::5"]);
    }

    #[test]
    fn a8_what_a_result_lacks_is_not_made_up() {
        let mut old = value();
        old["result"] = serde_json::json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.244.0.5/24"}});
        let read = parsed(&old).unwrap().unwrap();
        assert!(read.on_node.is_empty() && read.mac.is_none() && read.addresses.is_empty());

        let mut other = value();
        other["cniArgs"] = serde_json::json!([["K8S_POD_NAME"], [], ["K8S_POD_NAMESPACE", "shop", "x"]]);
        assert_eq!(parsed(&other).unwrap(), None);
        other["cniArgs"] = serde_json::Value::Null;
        assert_eq!(parsed(&other).unwrap(), None);
        let mut kind = value();
        kind["kind"] = "cniCacheV2".into();
        assert_eq!(parsed(&kind).unwrap(), None);
        for mac in [
            "",
            "02:00",
            "02:00:00:00:00:0g",
            "00:00:00:00:00:00",
            "02:00:00:00:00:03:04",
            "+2:00:00:00:00:03",
        ] {
            let mut bad = value();
            bad["result"]["interfaces"][1]["mac"] = mac.into();
            assert_eq!(parsed(&bad).unwrap().unwrap().on_node.len(), 1, "{mac}");
        }
    }

    #[test]
    fn a8_what_no_pod_can_have_is_refused() {
        let mut long = value();
        long["cniArgs"] =
            serde_json::json!([["K8S_POD_NAME", "x".repeat(300)], ["K8S_POD_NAMESPACE", "shop"]]);
        assert!(matches!(parsed(&long), Err(ParseError::Content(_))));
        let mut many = value();
        many["result"]["interfaces"] = vec![serde_json::json!({"name": "x"}); 65].into();
        assert!(matches!(parsed(&many), Err(ParseError::Content(_))));
        let mut typed = value();
        typed["result"]["ips"] = 5.into();
        assert!(matches!(parsed(&typed), Err(ParseError::Json(_))));
    }
}
