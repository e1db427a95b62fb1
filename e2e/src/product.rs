//! Postern itself: built from this tree, put into images, installed by its chart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::app;
use crate::cluster::{self, Cluster};
use crate::command;
use crate::lab::Lab;
use crate::step::Steps;
use crate::tailnet::{self, Helpers, OAUTH_CLIENT};

/// Where the chart is installed.
pub const NAMESPACE: &str = "postern-system";

const TARGET: &str = "x86_64-unknown-linux-musl";

/// User and group of the images' programs, as Pod Security `restricted` wants.
const USER: &str = "65532:65532";

/// An image in the cache: its tag is its content's hash, so a changed program rolls out by itself.
#[derive(Debug, Clone)]
pub struct Image {
    /// `localhost/postern-proxy`.
    pub repository: String,
    /// Of the program.
    pub tag: String,
    tar: PathBuf,
}

impl Image {
    /// `REPOSITORY:TAG`.
    pub fn reference(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }
}

/// The images that a lab runs.
#[derive(Debug, Clone)]
pub struct Images {
    pub operator: Image,
    pub proxy: Image,
    pub backend: Image,
}

/// Builds the binaries and their images.
pub fn build(lab: &Lab, helpers: &Helpers, steps: &mut Steps) -> Result<Images> {
    let estimate = (!program(lab, "postern-proxy").exists()).then_some(Duration::from_secs(240));
    steps.run("build Postern", estimate, || {
        let mut cargo = Command::new("cargo");
        cargo
            .current_dir(&lab.tree)
            .args(["build", "--profile", "lab", "--target", TARGET]);
        cargo.args(["--package", "postern-proxy", "--package", "postern-operator"]);
        command::logged(&mut cargo, &lab.cache.join("log/build.log"))
    })?;
    Ok(Images {
        operator: image(lab, "postern-operator", &program(lab, "postern-operator"))?,
        proxy: image(lab, "postern-proxy", &program(lab, "postern-proxy"))?,
        backend: image(lab, "backend", &helpers.program("backend"))?,
    })
}

/// A program as it is released, built now.
pub fn release(lab: &Lab, name: &str, steps: &mut Steps) -> Result<PathBuf> {
    let program = target_folder(lab).join(TARGET).join("release").join(name);
    let estimate = (!program.exists()).then_some(Duration::from_secs(600));
    steps.run(&format!("build {name} for release"), estimate, || {
        let mut cargo = Command::new("cargo");
        cargo
            .current_dir(&lab.tree)
            .args(["build", "--release", "--target", TARGET, "--package", name]);
        command::logged(&mut cargo, &lab.cache.join("log/build.log"))
    })?;
    Ok(program)
}

/// A program as the images have it.
pub fn program(lab: &Lab, name: &str) -> PathBuf {
    target_folder(lab).join(TARGET).join("lab").join(name)
}

/// Loads the images that the cluster has not got.
pub fn load(lab: &Lab, images: &Images, steps: &mut Steps) -> Result<()> {
    let loaded = lab.run.join("images");
    fs::create_dir_all(&loaded)?;
    for image in [&images.operator, &images.proxy, &images.backend] {
        let mark = loaded.join(image.reference().replace('/', "_"));
        if mark.exists() {
            continue;
        }
        steps.run(&format!("load {}", image.reference()), None, || {
            command::output(cluster::script(lab).arg("load").arg(&image.tar))?;
            fs::write(&mark, "").context("cannot record the loaded image")
        })?;
    }
    Ok(())
}

/// Installs or upgrades the chart and names the coordination server; this process must be inside.
pub fn install(lab: &Lab, cluster: &Cluster, images: &Images, steps: &mut Steps) -> Result<()> {
    steps.run("install the chart", Some(Duration::from_secs(10)), || {
        cluster.apply(&app::namespace(NAMESPACE))?;
        let mut helm = cluster.helm();
        helm.args(["upgrade", "--install", "postern"])
            .arg(lab.tree.join("charts/postern"));
        helm.args([
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            "--wait",
            "--timeout",
            "2m",
        ]);
        for value in chart_values(images) {
            helm.args(["--set-string", &value]);
        }
        command::output(&mut helm).map(drop)
    })?;
    steps.run("name the coordination server", None, || {
        cluster.apply(&tailnet_manifest(lab)?)
    })
}

/// Values of the chart that point it at the lab's images.
pub fn chart_values(images: &Images) -> Vec<String> {
    [("operator", &images.operator), ("proxy", &images.proxy)]
        .into_iter()
        .flat_map(|(part, image)| {
            [
                format!("{part}.image.repository={}", image.repository),
                format!("{part}.image.tag={}", image.tag),
            ]
        })
        .collect()
}

/// The default `Tailnet` and its OAuth client.
pub fn tailnet_manifest(lab: &Lab) -> Result<String> {
    let ca_bundle = indented(&tailnet::authority(lab)?, 4);
    Ok(format!(
        r#"apiVersion: v1
kind: Secret
metadata: {{ name: tailnet-oauth, namespace: {NAMESPACE} }}
stringData: {{ client_id: "{}", client_secret: "{}" }}
---
apiVersion: postern.dev/v1alpha1
kind: Tailnet
metadata: {{ name: default }}
spec:
  loginServer: {}
  acmeDirectory: {}
  caBundle: |
{ca_bundle}
  credentials:
    oauthClient: {{ secretRef: {{ name: tailnet-oauth }} }}
  tags: ["tag:k8s"]
"#,
        OAUTH_CLIENT.0,
        OAUTH_CLIENT.1,
        tailnet::control_url(),
        tailnet::acme_directory(),
    ))
}

fn image(lab: &Lab, name: &str, program: &Path) -> Result<Image> {
    let tag = tailnet::hash(&[program.to_owned()])?[..12].to_owned();
    let tar = lab.images().join(format!("{name}-{tag}.tar"));
    let repository = format!("localhost/{name}");
    if !tar.exists() {
        drop_older(lab, name)?;
        let entry = format!("/{name}");
        let files = [(program.to_owned(), entry.clone())];
        write_image(lab, &tar, &format!("{repository}:{tag}"), &entry, &files)?;
    }
    Ok(Image { repository, tag, tar })
}

/// Puts into the cluster, under the name of an image that it can't pull, this program at `/ENTRY`.
pub fn stand_in(lab: &Lab, reference: &str, program: &Path, entry: &str) -> Result<()> {
    let entry = format!("/{entry}");
    stand_in_of(lab, reference, &entry, &[(program.to_owned(), entry.clone())])
}

/// The same with files and folders, each with its place, of which one is the program.
pub fn stand_in_of(lab: &Lab, reference: &str, entry: &str, files: &[(PathBuf, String)]) -> Result<()> {
    let tar = lab
        .images()
        .join(format!("stand-in{}.tar", entry.replace('/', "-")));
    write_image(lab, &tar, reference, entry, files)?;
    let loaded = command::output(cluster::script(lab).arg("load").arg(&tar));
    fs::remove_file(tar)?;
    loaded.map(drop)
}

fn write_image(
    lab: &Lab,
    tar: &Path,
    reference: &str,
    entry: &str,
    files: &[(PathBuf, String)],
) -> Result<()> {
    let mut script = cluster::script(lab);
    script.arg("image").arg(tar).arg(reference).args([USER, entry]);
    let places = files.iter();
    script.args(places.map(|(file, place)| format!("{}={place}", file.display())));
    command::output(&mut script).map(drop)
}

/// Images of earlier builds; a running lab has its own copy.
fn drop_older(lab: &Lab, name: &str) -> Result<()> {
    let folder = lab.images();
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir(folder)?.flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{name}-"))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn target_folder(lab: &Lab) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| lab.tree.join("target"), PathBuf::from)
}

fn indented(text: &str, by: usize) -> String {
    text.trim_end()
        .lines()
        .map(|line| format!("{:by$}{line}", ""))
        .collect::<Vec<_>>()
        .join("\n")
}
