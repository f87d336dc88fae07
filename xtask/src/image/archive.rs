// SPDX-License-Identifier: Apache-2.0
//! An OCI image layout (image-spec 1.1) in a tar file: one image of one uncompressed layer of one
//! file, `/netpol`.
//!
//! The bytes depend on the program, the name and the architecture only.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that containerd takes the image's full name from.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What [`read`] found.
pub struct Image {
    /// The name as containerd stores it.
    pub name: String,
    /// The digest of the manifest.
    pub manifest: String,
    /// The bytes of `/netpol`.
    pub program: Vec<u8>,
}

/// Writes the archive.
///
/// # Errors
/// If the machine's architecture has no OCI name here, or the file cannot be written.
pub fn write(path: &Path, name: &str, program: &[u8]) -> Result<()> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no image for the architecture {other}"),
    };
    let layer = tar_of([("netpol", 0o755, program)])?;
    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": ["/netpol"],
            "Labels": {
                "org.opencontainers.image.title": "netpol",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": [descriptor(LAYER, &layer)],
    }))?;
    let mut entry = descriptor(MANIFEST, &manifest);
    entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
    entry["annotations"] = json!({ REF_NAME: name, CONTAINERD_NAME: full_name(name) });
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }))?;
    let layout = serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?;

    let blobs: BTreeMap<String, &[u8]> = [&config, &layer, &manifest]
        .into_iter()
        .map(|blob| (blob_path(&digest(blob)), &blob[..]))
        .collect();
    let files = [
        ("oci-layout", 0o644, &layout[..]),
        ("index.json", 0o644, &index[..]),
    ]
    .into_iter()
    .chain(blobs.iter().map(|(path, blob)| (path.as_str(), 0o644, *blob)));
    let bytes = tar_of(files)?;
    let temporary = path.with_added_extension("part");
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    Ok(fs::rename(&temporary, path)?)
}

/// Reads an archive of [`write()`] back, checking every digest, size and media type on the way from
/// the index to the layer.
///
/// # Errors
/// If anything does not fit.
pub fn read(path: &Path) -> Result<Image> {
    let files = files_of(&mut tar::Archive::new(File::open(path)?))?;
    let file = |name: &str| files.get(name).with_context(|| format!("{name} is missing"));
    let layout: Value = serde_json::from_slice(file("oci-layout")?)?;
    ensure!(
        layout["imageLayoutVersion"] == "1.0.0",
        "oci-layout: unknown version"
    );
    let index: Value = serde_json::from_slice(file("index.json")?)?;
    let blob = |descriptor: &Value, media_type: &str| -> Result<&[u8]> {
        ensure!(
            descriptor["mediaType"] == media_type,
            "{} is not {media_type}",
            descriptor["mediaType"]
        );
        let named = descriptor["digest"]
            .as_str()
            .context("a descriptor without a digest")?;
        let blob = file(&blob_path(named))?;
        ensure!(digest(blob) == named, "{named}: the content has another digest");
        ensure!(
            descriptor["size"] == blob.len(),
            "{named}: the content has another size"
        );
        Ok(blob)
    };
    let entry = &index["manifests"][0];
    let manifest: Value = serde_json::from_slice(blob(entry, MANIFEST)?)?;
    let config: Value = serde_json::from_slice(blob(&manifest["config"], CONFIG)?)?;
    let layer = blob(&manifest["layers"][0], LAYER)?;
    ensure!(
        manifest["layers"]
            .as_array()
            .is_some_and(|layers| layers.len() == 1),
        "not one layer"
    );
    ensure!(
        config["rootfs"]["diff_ids"] == json!([digest(layer)]),
        "diff_ids do not name the layer"
    );
    ensure!(
        config["architecture"] == entry["platform"]["architecture"],
        "two architectures"
    );
    ensure!(
        config["config"]["Entrypoint"] == json!(["/netpol"]),
        "another entry point"
    );
    let mut program = files_of(&mut tar::Archive::new(layer))?;
    Ok(Image {
        name: entry["annotations"][CONTAINERD_NAME]
            .as_str()
            .context("no name")?
            .to_owned(),
        manifest: entry["digest"].as_str().context("no digest")?.to_owned(),
        program: program.remove("netpol").context("the layer has no /netpol")?,
    })
}

fn files_of(archive: &mut tar::Archive<impl std::io::Read>) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.insert(name, bytes);
    }
    Ok(files)
}

fn tar_of<'a>(files: impl IntoIterator<Item = (&'a str, u32, &'a [u8])>) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, path, bytes)?;
    }
    Ok(builder.into_inner()?)
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn digest(bytes: &[u8]) -> String {
    let hexadecimal: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hexadecimal}")
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// A name with its registry spelled out, as containerd and the kubelet compare names: the first
/// part is a registry if it has a dot or a port, or is `localhost`.
fn full_name(name: &str) -> String {
    match name.split_once('/') {
        Some((first, _)) if first == "localhost" || first.contains(['.', ':']) => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(name: &str, program: &[u8]) -> Vec<u8> {
        let path = std::env::temp_dir().join(format!("netpol-xtask-archive-{name}-{}", std::process::id()));
        write(&path, "netpol:test", program).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        bytes
    }

    #[test]
    fn the_same_program_gives_the_same_bytes() {
        assert_eq!(archive("one", b"program"), archive("two", b"program"));
        assert_ne!(archive("one", b"program"), archive("two", b"Program"));
    }

    #[test]
    fn a_changed_byte_does_not_read_back() {
        let path = std::env::temp_dir().join(format!("netpol-xtask-changed-{}", std::process::id()));
        let mut bytes = archive("whole", b"the program itself");
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path).unwrap().program, b"the program itself");
        let at = bytes.windows(11).position(|part| part == b"the program").unwrap();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = read(&path).err().expect("a changed layer").to_string();
        assert!(error.contains("another digest"), "{error}");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_name_has_its_registry() {
        assert_eq!(full_name("netpol:1"), "docker.io/library/netpol:1");
        assert_eq!(full_name("team/netpol:1"), "docker.io/team/netpol:1");
        assert_eq!(full_name("localhost/netpol:1"), "localhost/netpol:1");
        assert_eq!(
            full_name("registry.example:5000/netpol:1"),
            "registry.example:5000/netpol:1"
        );
    }
}
