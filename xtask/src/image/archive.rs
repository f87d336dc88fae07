// SPDX-License-Identifier: Apache-2.0
//! An OCI image layout (image-spec 1.1) in a tar file: one index of an image for each architecture.
//! An image is one uncompressed layer of one file, `/netpol`.
//!
//! A bill of materials is an artifact in that index whose subject is the image, so that it goes to
//! a registry with it, and the registry lists it as a referrer.
//!
//! The bytes depend on what is given only.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::labels::{CREATED, Labels};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const NOTHING: &str = "application/vnd.oci.empty.v1+json";
const CYCLONEDX: &str = "application/vnd.cyclonedx+json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that containerd takes the image's full name from.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What an image is made of.
pub struct Part {
    /// As OCI names it.
    pub architecture: String,
    /// The bytes of `/netpol`.
    pub program: Vec<u8>,
    /// Its bill of materials, if it has one.
    pub sbom: Option<Vec<u8>>,
}

/// What [`read`] found.
pub struct Image {
    /// The name as containerd stores it.
    pub name: String,
    /// The digest of the index.
    pub digest: String,
    /// The images.
    pub parts: Vec<Found>,
}

/// One of its images.
pub struct Found {
    /// The digest of the manifest.
    manifest: String,
    /// The digest of the layer.
    layer: String,
    /// What it is made of.
    pub part: Part,
}

impl Image {
    /// The digests of all that is in it, by what it is.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let mut digests = BTreeMap::from([("index".to_owned(), self.digest.clone())]);
        for Found {
            manifest,
            layer,
            part,
        } in &self.parts
        {
            let mut add = |what, digest| digests.insert(format!("{}: {what}", part.architecture), digest);
            add("manifest", manifest.clone());
            add("layer", layer.clone());
            add("program", digest(&part.program));
            if let Some(sbom) = &part.sbom {
                add("bill of materials", digest(sbom));
            }
        }
        digests
    }
}

/// Blobs by their paths.
type Blobs = BTreeMap<String, Vec<u8>>;

/// Writes the archive.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, name: &str, labels: &Labels, parts: &[Part]) -> Result<()> {
    let mut blobs = Blobs::new();
    let (mut images, mut artifacts) = (Vec::new(), Vec::new());
    for part in parts {
        let image = image(&mut blobs, labels, part)?;
        if let Some(sbom) = &part.sbom {
            artifacts.push(artifact(&mut blobs, &image, sbom)?);
        }
        images.push(image);
    }
    // Runtimes take the first that fits.
    images.append(&mut artifacts);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": images,
        "annotations": labels,
    });
    let mut entry = keep(&mut blobs, INDEX, serde_json::to_vec(&index)?);
    entry["annotations"] = json!({ REF_NAME: name, CONTAINERD_NAME: full_name(name) });
    let outer = serde_json::to_vec(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }))?;
    let layout = serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?;

    let files = [
        ("oci-layout", 0o644, &layout[..]),
        ("index.json", 0o644, &outer[..]),
    ]
    .into_iter()
    .chain(blobs.iter().map(|(path, blob)| (path.as_str(), 0o644, &blob[..])));
    let bytes = tar_of(files)?;
    let temporary = path.with_added_extension("part");
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    Ok(fs::rename(&temporary, path)?)
}

/// Makes an image, and returns its descriptor.
fn image(blobs: &mut Blobs, labels: &Labels, part: &Part) -> Result<Value> {
    let layer = tar_of([("netpol", 0o755, &part.program[..])])?;
    let mut config = json!({
        "architecture": part.architecture,
        "os": "linux",
        "config": { "Entrypoint": ["/netpol"], "Labels": labels },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    if let Some(created) = labels.get(CREATED) {
        config["created"] = json!(created);
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": keep(blobs, CONFIG, serde_json::to_vec(&config)?),
        "layers": [keep(blobs, LAYER, layer)],
        "annotations": labels,
    });
    let mut entry = keep(blobs, MANIFEST, serde_json::to_vec(&manifest)?);
    entry["platform"] = json!({ "architecture": part.architecture, "os": "linux" });
    Ok(entry)
}

/// Makes the artifact of an image's bill of materials, and returns its descriptor.
fn artifact(blobs: &mut Blobs, image: &Value, sbom: &[u8]) -> Result<Value> {
    let mut subject = image.clone();
    if let Some(subject) = subject.as_object_mut() {
        subject.remove("platform");
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": CYCLONEDX,
        "config": keep(blobs, NOTHING, b"{}".to_vec()),
        "layers": [keep(blobs, CYCLONEDX, sbom.to_vec())],
        "subject": subject,
    });
    let mut entry = keep(blobs, MANIFEST, serde_json::to_vec(&manifest)?);
    entry["artifactType"] = json!(CYCLONEDX);
    // No machine is of this platform, so none runs it.
    entry["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
    Ok(entry)
}

/// Adds a blob, and returns its descriptor.
fn keep(blobs: &mut Blobs, media_type: &str, blob: Vec<u8>) -> Value {
    let named = digest(&blob);
    let descriptor = json!({ "mediaType": media_type, "digest": named, "size": blob.len() });
    blobs.insert(blob_path(&named), blob);
    descriptor
}

/// Reads an archive of [`write()`] back, checking every digest, size and media type on the way from
/// the index to the layers.
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
    let outer: Value = serde_json::from_slice(file("index.json")?)?;
    let entry = &outer["manifests"][0];
    let index: Value = serde_json::from_slice(blob(&files, entry, INDEX)?)?;
    let mut parts: Vec<Found> = Vec::new();
    for entry in index["manifests"].as_array().context("an index of nothing")? {
        let manifest: Value = serde_json::from_slice(blob(&files, entry, MANIFEST)?)?;
        let named = entry["digest"].as_str().context("no digest")?;
        if entry["artifactType"] == CYCLONEDX {
            let image = parts
                .iter_mut()
                .find(|image| manifest["subject"]["digest"] == image.manifest.as_str())
                .with_context(|| format!("{named} is about no image before it"))?;
            image.part.sbom = Some(blob(&files, &manifest["layers"][0], CYCLONEDX)?.to_vec());
        } else {
            parts.push(found(&files, entry, &manifest)?);
        }
    }
    Ok(Image {
        name: entry["annotations"][CONTAINERD_NAME]
            .as_str()
            .context("no name")?
            .to_owned(),
        digest: entry["digest"].as_str().context("no digest")?.to_owned(),
        parts,
    })
}

/// Reads an image of an index's entry.
fn found(files: &Blobs, entry: &Value, manifest: &Value) -> Result<Found> {
    let config: Value = serde_json::from_slice(blob(files, &manifest["config"], CONFIG)?)?;
    let layer = blob(files, &manifest["layers"][0], LAYER)?;
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
    let architecture = config["architecture"].as_str().context("no architecture")?;
    ensure!(
        entry["platform"]["architecture"] == architecture,
        "two architectures"
    );
    ensure!(
        config["config"]["Entrypoint"] == json!(["/netpol"]),
        "another entry point"
    );
    let mut program = files_of(&mut tar::Archive::new(layer))?;
    Ok(Found {
        manifest: entry["digest"].as_str().context("no digest")?.to_owned(),
        layer: digest(layer),
        part: Part {
            architecture: architecture.to_owned(),
            program: program.remove("netpol").context("the layer has no /netpol")?,
            sbom: None,
        },
    })
}

/// Returns the blob of a descriptor.
fn blob<'a>(files: &'a Blobs, descriptor: &Value, media_type: &str) -> Result<&'a [u8]> {
    ensure!(
        descriptor["mediaType"] == media_type,
        "{} is not {media_type}",
        descriptor["mediaType"]
    );
    let named = descriptor["digest"]
        .as_str()
        .context("a descriptor without a digest")?;
    let path = blob_path(named);
    let blob = files.get(&path).with_context(|| format!("{path} is missing"))?;
    ensure!(digest(blob) == named, "{named}: the content has another digest");
    ensure!(
        descriptor["size"] == blob.len(),
        "{named}: the content has another size"
    );
    Ok(blob)
}

fn files_of(archive: &mut tar::Archive<impl std::io::Read>) -> Result<Blobs> {
    let mut files = Blobs::new();
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

/// Returns the digest as OCI writes it.
pub fn digest(bytes: &[u8]) -> String {
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
    use super::{super::labels, *};

    fn parts(programs: &[(&str, &[u8])]) -> Vec<Part> {
        let part = |(architecture, program): &(&str, &[u8])| Part {
            architecture: (*architecture).to_owned(),
            program: program.to_vec(),
            sbom: Some(format!("crates for {architecture}").into_bytes()),
        };
        programs.iter().map(part).collect()
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("netpol-xtask-archive-{name}-{}", std::process::id()))
    }

    fn archive(name: &str, program: &[u8]) -> Vec<u8> {
        let path = scratch(name);
        write(
            &path,
            "netpol:test",
            &labels::fixed(),
            &parts(&[("amd64", program), ("arm64", b"other")]),
        )
        .unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        bytes
    }

    #[test]
    fn the_same_programs_give_the_same_bytes() {
        assert_eq!(archive("one", b"program"), archive("two", b"program"));
        assert_ne!(archive("one", b"program"), archive("two", b"Program"));
    }

    #[test]
    fn each_architecture_has_its_program_and_its_bill_of_materials() {
        let path = scratch("both");
        fs::write(&path, archive("written", b"for amd64")).unwrap();
        let image = read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let found: Vec<_> = image
            .parts
            .iter()
            .map(|Found { part, .. }| {
                (
                    part.architecture.as_str(),
                    &part.program[..],
                    part.sbom.as_deref().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("amd64", &b"for amd64"[..], &b"crates for amd64"[..]),
                ("arm64", b"other", b"crates for arm64")
            ]
        );
    }

    #[test]
    fn a_changed_byte_does_not_read_back() {
        let path = scratch("changed");
        let mut bytes = archive("whole", b"the program itself");
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path).unwrap().parts[0].part.program, b"the program itself");
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
