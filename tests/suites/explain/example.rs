// SPDX-License-Identifier: Apache-2.0
//! A small example cluster in a folder.

use std::path::Path;

use netpol_tests::manifests::ManifestDir;

use crate::shared::{netpol, stderr, stdout};

const CLUSTER: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {tier: front}}
---
apiVersion: v1
kind: Namespace
metadata: {name: data, labels: {tier: back}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: a, containers: [{name: main}]}
status: {phase: Running, podIPs: [{ip: 10.244.0.10}, {ip: "fd00::10"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: data, name: db, labels: {app: db}}
spec: {nodeName: a, containers: [{name: main}]}
status: {phase: Running, podIPs: [{ip: 10.244.0.20}, {ip: "fd00::20"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: data, name: spare, labels: {app: spare}}
spec: {nodeName: a, containers: [{name: main}]}
status: {phase: Running, podIPs: [{ip: 10.244.0.21}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: data, name: starting}
spec: {containers: [{name: main}]}
status: {phase: Pending}
---
apiVersion: v1
kind: Service
metadata: {namespace: data, name: sql}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], externalIPs: [203.0.113.50], ports: [{name: sql, port: 5432, targetPort: 15432, nodePort: 30432}]}
status: {loadBalancer: {ingress: [{ip: 203.0.113.51}]}}
---
apiVersion: v1
kind: Node
metadata: {name: b}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: data, name: bare}
spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: data, name: bare-1, labels: {kubernetes.io/service-name: bare}}
addressType: IPv4
ports: [{port: 80, protocol: TCP}]
endpoints: [{addresses: [10.244.0.21]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: data, name: empty}
spec: {clusterIP: 10.96.0.8, clusterIPs: [10.96.0.8], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: data, name: sql-1, labels: {kubernetes.io/service-name: sql}}
addressType: IPv4
ports: [{name: sql, port: 15432, protocol: TCP}]
endpoints: [{addresses: [10.244.0.20]}, {addresses: [10.244.0.21]}, {addresses: [10.244.0.99], conditions: {ready: false}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: data, name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {team: data}}}, {podSelector: {matchLabels: {app: api}}}]
    ports: [{port: 80}, {port: 443}]
  - from: [{namespaceSelector: {matchLabels: {tier: front}}, podSelector: {matchLabels: {app: api}}}]
  - from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.0/25]}}, {ipBlock: {cidr: 10.0.0.0/8, except: [192.0.2.0/24]}}]
  - from: [{namespaceSelector: {matchLabels: {tier: front}}}]
    ports: [{port: 15432}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: data, name: isolated}
spec: {podSelector: {matchLabels: {app: db}}}
"#;

/// Writes the cluster into a folder.
pub fn cluster() -> ManifestDir {
    let folder = ManifestDir::new().unwrap();
    folder.write("all.yaml", CLUSTER).unwrap();
    folder
}

/// Returns exit code, output and errors of `netpol explain` on a folder.
pub fn explain_in(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut all = vec!["explain", "--source", folder.to_str().unwrap()];
    all.extend(arguments);
    let output = netpol(&all);
    (output.status.code(), stdout(&output), stderr(&output))
}
