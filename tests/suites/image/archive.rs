// SPDX-License-Identifier: Apache-2.0
//! What is in the archive, read as a registry or a runtime reads it.

use std::{
    fs::{self, File},
    path::Path,
};

use netpol_tests::{container, privilege::settle};
use object::{Architecture, Object as _};
use serde_json::Value;

const LABEL: &str = "org.opencontainers.image";

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn each_image_of_the_index_is_of_its_architecture_and_says_what_it_is() {
    let missing = container::archive().err();
    if !settle("image", missing) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(File::open(container::archive().unwrap()).unwrap())
        .unpack(folder.path())
        .unwrap();
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        fs::read(folder.path().join("blobs").join(digest.replace(':', "/"))).unwrap()
    };
    let outer = json(&fs::read(folder.path().join("index.json")).unwrap());
    let index = json(&blob(&outer["manifests"][0]));
    let mut found = Vec::new();
    for entry in index["manifests"].as_array().unwrap() {
        let architecture = entry["platform"]["architecture"].as_str().unwrap();
        if architecture == "unknown" {
            assert_eq!(entry["artifactType"], "application/vnd.cyclonedx+json");
            continue;
        }
        let manifest = json(&blob(entry));
        let config = json(&blob(&manifest["config"]));
        assert_eq!(config["architecture"], architecture);
        let labels = &config["config"]["Labels"];
        for key in [
            "title",
            "description",
            "version",
            "licenses",
            "source",
            "revision",
            "created",
        ] {
            let label = &labels[format!("{LABEL}.{key}")];
            assert!(
                label.as_str().is_some_and(|text| !text.is_empty()),
                "{key}: {labels}"
            );
        }
        assert_eq!(
            (&manifest["annotations"], &index["annotations"]),
            (labels, labels)
        );
        assert_eq!(config["created"], labels[format!("{LABEL}.created")]);

        let root = folder.path().join(architecture);
        tar::Archive::new(&blob(&manifest["layers"][0])[..])
            .unpack(&root)
            .unwrap();
        let files: Vec<_> = fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files, [root.join("netpol")]);
        check_program(&files[0], architecture);
        found.push(architecture.to_owned());
    }
    assert!(!found.is_empty());
}

/// The agent names no path of the machine that built it.
fn check_program(path: &Path, architecture: &str) {
    let program = fs::read(path).unwrap();
    let expected = match architecture {
        "amd64" => Architecture::X86_64,
        "arm64" => Architecture::Aarch64,
        other => panic!("an image for {other}"),
    };
    assert_eq!(
        object::File::parse(&program[..]).unwrap().architecture(),
        expected
    );
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for place in [checkout.to_str().unwrap(), "/registry/src/index.", "/.rustup/"] {
        let at = program
            .windows(place.len())
            .position(|part| part == place.as_bytes());
        assert!(at.is_none(), "{architecture}: {place} is in the program");
    }
}
