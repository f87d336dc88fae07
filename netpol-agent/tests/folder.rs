// SPDX-License-Identifier: Apache-2.0
//! The folder source as the agent runs it: an edit leads to a snapshot, and a mistake changes
//! nothing that is enforced.

use std::{fs, path::Path, sync::Arc, time::Duration};

use netpol_agent::{
    model::{ObjectKey, Snapshot},
    progress::Progress,
    watch::{self, Source, WatchError, directory},
};
use tempfile::TempDir;
use tokio::{sync::watch::Receiver, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";

fn pod(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
         spec: {{nodeName: node}}\nstatus: {{phase: Running, podIPs: [{{ip: {address}}}]}}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

/// A folder that a source watches.
struct Watched {
    dir: TempDir,
    snapshots: Receiver<Option<Arc<Snapshot>>>,
    stop: CancellationToken,
    run: JoinHandle<Result<(), WatchError>>,
}

impl Watched {
    async fn start(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let (sender, snapshots) = tokio::sync::watch::channel(None);
        let stop = CancellationToken::new();
        let source = Source::Directory(dir.path().to_path_buf());
        let outlet = watch::Outlet {
            snapshots: sender,
            drafts: tokio::sync::watch::Sender::default(),
        };
        let run = tokio::spawn(watch::run(source, outlet, Progress::default(), stop.clone()));
        let mut watched = Self {
            dir,
            snapshots,
            stop,
            run,
        };
        let first = watched.until("the first snapshot", |_| true).await;
        assert_eq!(first.revision, 1);
        watched
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Waits for a snapshot; fails after five seconds.
    async fn until(&mut self, what: &str, good: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let found = self.snapshots.wait_for(|s| s.as_deref().is_some_and(&good));
        let found = timeout(Duration::from_secs(5), found)
            .await
            .unwrap_or_else(|_| panic!("no snapshot: {what}"));
        found.unwrap().clone().unwrap()
    }

    async fn until_code(&mut self, code: &str) -> Arc<Snapshot> {
        self.until(code, |s| s.diagnostics.keys().any(|d| d.code == code))
            .await
    }

    async fn end(self) {
        self.stop.cancel();
        self.run.await.unwrap().unwrap();
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn load(files: &[(&str, &str)]) -> Result<Snapshot, WatchError> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory::load(dir.path())
}

fn refusal(files: &[(&str, &str)]) -> String {
    load(files).expect_err("refused").to_string()
}

#[test]
fn a_folder_with_subfolders_is_read_and_hidden_files_are_not() {
    let snapshot = load(&[
        ("namespaces.yml", NAMESPACE),
        ("pods/a.yaml", &pod("a", "10.0.0.1")),
        ("pods/.b.yaml", &pod("b", "10.0.0.2")),
        (".git/c.yaml", "{"),
        ("README.md", "not a manifest"),
        (
            "list.json",
            r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}}]}"#,
        ),
    ])
    .unwrap();
    assert_eq!(snapshot.revision, 1);
    assert_eq!(
        &snapshot.namespaces["shop"].labels["kubernetes.io/metadata.name"], "shop",
        "rule P4"
    );
    assert_eq!(snapshot.pods.keys().collect::<Vec<_>>(), [&key("a")]);
    assert_eq!(snapshot.services.len(), 1);
    assert!(snapshot.diagnostics.is_empty());
}

#[test]
fn a_missing_folder_is_named() {
    let error = directory::load(Path::new("/nonexistent/manifests")).unwrap_err();
    assert!(matches!(error, WatchError::Folder { .. }));
    assert!(error.to_string().contains("/nonexistent/manifests"), "{error}");
}

#[test]
fn at_start_what_cannot_be_read_is_an_error_that_names_it() {
    let error = refusal(&[
        ("good.yaml", NAMESPACE),
        ("bad.yaml", &format!("{NAMESPACE}---\na: [\n")),
    ]);
    assert!(
        error.contains("bad.yaml") && error.contains("document 2") && error.contains("line "),
        "{error}"
    );
    let error = refusal(&[("p.yaml", &policy("web", "{podSelectr: {}}"))]);
    assert!(
        error.contains("p.yaml") && error.contains("NetworkPolicy shop/web"),
        "{error}"
    );
    assert!(error.contains("spec.podSelectr"), "{error}");
}

#[test]
fn of_two_objects_of_one_name_the_first_counts() {
    let snapshot = load(&[
        ("a.yaml", &pod("a", "10.0.0.1")),
        ("b.yaml", &pod("a", "10.0.0.2")),
    ])
    .unwrap();
    assert_eq!(
        snapshot.pods[&key("a")].addresses,
        ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
    let diagnostics: Vec<_> = snapshot.diagnostics.keys().collect();
    let [fault] = diagnostics[..] else {
        panic!("{:?}", snapshot.diagnostics)
    };
    assert_eq!(
        (fault.code, fault.object.as_str()),
        ("object-duplicate", "Pod shop/a")
    );
    assert!(
        fault.message.contains("a.yaml, document 1") && fault.message.contains("b.yaml, document 1"),
        "{fault}"
    );
}

#[tokio::test]
async fn edits_reach_a_snapshot() {
    let mut watched = Watched::start(&[("ns.yaml", NAMESPACE)]).await;
    watched.write("p.yaml", &policy("web", "{podSelector: {}}"));
    watched
        .until("a new file", |s| s.policies.contains_key(&key("web")))
        .await;

    fs::create_dir(watched.path("sub")).unwrap();
    watched.write("sub/pod.yaml", &pod("a", "10.0.0.1"));
    watched
        .until("a file in a new subfolder", |s| s.pods.contains_key(&key("a")))
        .await;

    watched.write("sub/pod.yaml.tmp", &pod("b", "10.0.0.2"));
    fs::rename(watched.path("sub/pod.yaml.tmp"), watched.path("sub/pod.yaml")).unwrap();
    let next = watched
        .until("a file renamed over another", |s| s.pods.contains_key(&key("b")))
        .await;
    assert!(!next.pods.contains_key(&key("a")));

    fs::remove_file(watched.path("p.yaml")).unwrap();
    watched.until("a removed file", |s| s.policies.is_empty()).await;
    watched.end().await;
}

#[tokio::test]
async fn a_mounted_config_map_is_swapped_at_once() {
    let mut watched = Watched::start(&[("ns.yaml", NAMESPACE)]).await;
    for (version, name) in [("..1", "a"), ("..2", "b")] {
        fs::create_dir(watched.path(version)).unwrap();
        watched.write(&format!("{version}/pod.yaml"), &pod(name, "10.0.0.1"));
    }
    std::os::unix::fs::symlink("..1", watched.path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/pod.yaml", watched.path("pod.yaml")).unwrap();
    let first = watched
        .until("the link", |s| s.pods.contains_key(&key("a")))
        .await;
    assert_eq!(first.pods.len(), 1);
    std::os::unix::fs::symlink("..2", watched.path("..data_tmp")).unwrap();
    fs::rename(watched.path("..data_tmp"), watched.path("..data")).unwrap();
    let second = watched
        .until("the swap", |s| s.pods.contains_key(&key("b")))
        .await;
    assert_eq!((second.pods.len(), second.diagnostics.len()), (1, 0));
    watched.end().await;
}

#[tokio::test]
async fn a_file_that_stops_parsing_keeps_its_objects() {
    let mut watched = Watched::start(&[("p.yaml", &policy("web", "{podSelector: {}}"))]).await;
    for (text, code) in [
        ("kind: [", "manifest-unparseable"),
        (
            "knid: NetworkPolicy\napiVersion: networking.k8s.io/v1\n",
            "manifest-not-object",
        ),
        (
            "kind: NetworkPolcy\napiVersion: networking.k8s.io/v1\n",
            "kind-unknown",
        ),
        (
            "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {nmae: web}\n",
            "name-missing",
        ),
    ] {
        watched.write("p.yaml", text);
        let snapshot = watched.until_code(code).await;
        assert!(snapshot.policies.contains_key(&key("web")), "{code}");
        assert!(
            snapshot
                .diagnostics
                .keys()
                .all(|d| d.object.starts_with("p.yaml"))
        );
    }
    watched.write("p.yaml", &policy("db", "{podSelector: {}}"));
    let mended = watched.until("mended", |s| s.diagnostics.is_empty()).await;
    assert_eq!(mended.policies.keys().collect::<Vec<_>>(), [&key("db")]);
    watched.end().await;
}

#[tokio::test]
async fn a_refused_policy_keeps_its_last_good_version_while_the_rest_goes_on() {
    let good = policy("web", "{podSelector: {}, policyTypes: [Ingress, Egress]}");
    let mut watched = Watched::start(&[("p.yaml", &good)]).await;
    for (spec, code) in [
        ("{podSelectr: {}}", "field-unknown"),
        ("{podSelector: [], policyTypes: [Ingress]}", "field-type"),
        (
            "{podSelector: {}, policyTypes: [Ingress, Egres]}",
            "policy-type-unknown",
        ),
    ] {
        let name = format!("new-{}", code.replace('-', ""));
        watched.write(
            "p.yaml",
            &format!(
                "{}---\n{}",
                policy("web", spec),
                policy(&name, "{podSelector: {}}")
            ),
        );
        let snapshot = watched.until_code(code).await;
        assert_eq!(
            snapshot.policies[&key("web")].policy_types.as_ref().map(Vec::len),
            Some(2),
            "{code}"
        );
        assert!(
            snapshot.policies.contains_key(&key(&name)),
            "the rest of the file goes on"
        );
    }
    fs::remove_file(watched.path("p.yaml")).unwrap();
    fs::write(watched.path("other.yaml"), NAMESPACE).unwrap();
    watched
        .until("removed", |s| s.policies.is_empty() && s.diagnostics.is_empty())
        .await;
    watched.end().await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_not_read() {
    use std::io::Write;
    let mut watched = Watched::start(&[("p.yaml", &policy("web", "{podSelector: {}}"))]).await;
    let mut file = fs::File::create(watched.path("p.yaml")).unwrap();
    file.write_all(b"# nothing yet\n").unwrap();
    watched.write("pod.yaml", &pod("a", "10.0.0.1"));
    let between = watched
        .until("the other file", |s| s.pods.contains_key(&key("a")))
        .await;
    assert!(
        between.policies.contains_key(&key("web")),
        "the truncated file says nothing"
    );
    file.write_all(policy("db", "{podSelector: {}}").as_bytes())
        .unwrap();
    drop(file);
    let after = watched
        .until("closed", |s| s.policies.contains_key(&key("db")))
        .await;
    assert_eq!((after.policies.len(), after.diagnostics.len()), (1, 0));
    watched.end().await;
}

#[tokio::test]
async fn a_folder_that_vanishes_changes_nothing_and_is_read_when_it_is_back() {
    let mut watched = Watched::start(&[("p.yaml", &policy("web", "{podSelector: {}}"))]).await;
    fs::remove_dir_all(watched.dir.path()).unwrap();
    let changed = timeout(Duration::from_secs(1), {
        let snapshots = &mut watched.snapshots;
        snapshots.mark_unchanged();
        snapshots.changed()
    });
    assert!(changed.await.is_err(), "no snapshot without the folder");
    fs::create_dir(watched.dir.path()).unwrap();
    watched.write("p.yaml", &policy("db", "{podSelector: {}}"));
    watched
        .until("the new folder", |s| s.policies.keys().eq([&key("db")]))
        .await;
    watched.write("p.yaml", &policy("web", "{podSelector: {}}"));
    watched
        .until("an edit in the new folder", |s| {
            s.policies.keys().eq([&key("web")])
        })
        .await;
    watched.end().await;
}

#[tokio::test]
async fn the_last_file_can_be_removed() {
    let mut watched = Watched::start(&[("p.yaml", &policy("web", "{podSelector: {}}"))]).await;
    fs::remove_file(watched.path("p.yaml")).unwrap();
    watched.until("an empty folder", |s| s.policies.is_empty()).await;
    watched.end().await;
}

#[tokio::test]
async fn a_burst_of_files_is_few_snapshots_and_none_is_lost() {
    let mut watched = Watched::start(&[("ns.yaml", NAMESPACE)]).await;
    for number in 1..=200 {
        watched.write(
            &format!("{number}.yaml"),
            &pod(&format!("p{number}"), &format!("10.0.1.{}", number % 250)),
        );
    }
    let last = watched.until("all pods", |s| s.pods.len() == 200).await;
    assert!(last.revision <= 50, "200 writes made {} snapshots", last.revision);
    watched.end().await;
}
