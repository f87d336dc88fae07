// SPDX-License-Identifier: Apache-2.0
//! Reads the types of the embedded object by bpftool.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context, Result, ensure};
use netpol_agent::datapath::object::EBPF_OBJECT;
use netpol_tests::privilege;
use serde_json::Value;

use crate::SUITE;

/// Runs `bpftool` and parses the JSON that it prints.
pub fn bpftool(arguments: &[&str]) -> Result<Value> {
    let output = Command::new("bpftool").arg("-j").args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "bpftool {arguments:?}: {text}");
    serde_json::from_str(&text).with_context(|| format!("bpftool {arguments:?} printed {text}"))
}

/// The types of the embedded object, by number.
pub struct Btf(BTreeMap<u64, Value>);

impl Btf {
    /// Reads the types; prints a message and returns `None` where that is impossible.
    pub fn of_object() -> Option<Self> {
        let no_bpftool = Command::new("bpftool").arg("version").output().is_err();
        let obstacle = if no_bpftool {
            Some("no bpftool: install it")
        } else if EBPF_OBJECT.is_none() {
            Some("this build has no eBPF programs")
        } else {
            None
        };
        if !privilege::settle(SUITE, obstacle.map(str::to_owned)) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        fs::write(&path, EBPF_OBJECT.unwrap()).unwrap();
        let dump = bpftool(&["btf", "dump", "file", path.to_str().unwrap()]).unwrap();
        let types = dump["types"].as_array().unwrap().iter();
        Some(Self(
            types
                .map(|entry| (entry["id"].as_u64().unwrap(), entry.clone()))
                .collect(),
        ))
    }

    /// Returns the only type of that kind and name.
    pub fn find(&self, kind: &str, name: &str) -> &Value {
        let mut found = self
            .0
            .values()
            .filter(|entry| entry["kind"] == kind && entry["name"] == name);
        let first = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
        assert!(
            found.next().is_none(),
            "the object has more than one {kind} {name}"
        );
        first
    }

    /// Returns a type by its number.
    pub fn at(&self, id: &Value) -> &Value {
        &self.0[&id.as_u64().expect("a type's number")]
    }

    /// Returns the size of a type, bytes.
    pub fn size(&self, id: &Value) -> usize {
        let entry = self.at(id);
        match entry["kind"].as_str().unwrap() {
            "ARRAY" => entry["nr_elems"].as_u64().unwrap() as usize * self.size(&entry["type_id"]),
            "TYPEDEF" | "CONST" => self.size(&entry["type_id"]),
            _ => entry["size"]
                .as_u64()
                .unwrap_or_else(|| panic!("no size: {entry}")) as usize,
        }
    }

    /// Returns name, offset and size of each member of a structure.
    pub fn layout(&self, name: &str) -> Vec<(String, usize, usize)> {
        let members = self.find("STRUCT", name)["members"].as_array().unwrap().iter();
        members
            .map(|member| {
                let bits = member["bits_offset"].as_u64().unwrap() as usize;
                assert_eq!(bits % 8, 0, "{member}");
                (
                    member["name"].as_str().unwrap().to_owned(),
                    bits / 8,
                    self.size(&member["type_id"]),
                )
            })
            .collect()
    }

    /// Returns what a member of a map's definition points at.
    pub fn pointee(&self, definition: &Value, member: &str) -> Option<&Value> {
        let mut members = definition["members"].as_array().unwrap().iter();
        let found = members.find(|entry| entry["name"] == member)?;
        let pointer = self.at(&found["type_id"]);
        assert_eq!(pointer["kind"], "PTR", "{member}");
        Some(&pointer["type_id"])
    }
}
