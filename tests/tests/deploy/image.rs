//! The image that `make image-tar` makes without a container engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use npc_tests::lab::write_program;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{dist, read, repository, tools};

const NAME: &str = "npc:test";

/// What stands for npc: the image is made of any program.
const PROGRAM: &str = "#!/bin/sh\necho npc\n";

/// Debian's packages in it, as `deploy/image/rootfs.sh` lists them.
const PACKAGES: &str = "iptables 1.8.9-2 amd64\nlibelf1 1:0.188-2.1+b1 amd64\n";

/// An image of a root file system that has one file, so that no package is fetched.
struct Image {
    folder: TempDir,
}

impl Image {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root, npc) = (folder.path().join("root"), folder.path().join("npc"));
        fs::create_dir_all(root.join("usr/share")).unwrap();
        fs::write(root.join("usr/share/notice"), "a file of the root file system").unwrap();
        fs::create_dir(root.join("usr/share/doc")).unwrap();
        fs::write(root.join("usr/share/doc/packages"), PACKAGES).unwrap();
        fs::write(&npc, PROGRAM).unwrap();
        let image = Self { folder };
        let script = repository("deploy/image/tar.sh");
        let output =
            Command::new(script).arg(NAME).arg(image.file()).arg(npc).env("NPC_ROOTFS", root).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        image
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("image.tar")
    }

    /// Unpacks it.
    fn unpack(&self) -> PathBuf {
        let folder = self.folder.path().join("unpacked");
        fs::create_dir(&folder).unwrap();
        tools::run(Path::new("tar"), [Path::new("-xf"), &self.file(), Path::new("-C"), &folder], &[]);
        folder
    }
}

fn digest(file: &Path) -> String {
    tools::run(Path::new("sha256sum"), [file], &[]).split(' ').next().unwrap().to_owned()
}

/// What `deploy/Dockerfile` says of the image, in the words of an image's configuration.
fn of_the_dockerfile() -> Value {
    let text = read("deploy/Dockerfile").replace("\\\n", " ");
    let last = text.rsplit("\nFROM ").next().unwrap();
    let argument = |name: &str| last.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    let labels = argument("LABEL ").split("\" ").map(|label| {
        let (key, value) = label.trim().split_once('=').unwrap();
        (key.to_owned(), value.trim_matches('"').to_owned())
    });
    json!({
        "Env": [argument("ENV ")],
        "Entrypoint": serde_json::from_str::<Value>(argument("ENTRYPOINT ")).unwrap(),
        "Cmd": serde_json::from_str::<Value>(argument("CMD ")).unwrap(),
        "Labels": labels.collect::<BTreeMap<_, _>>(),
    })
}

#[test]
fn the_image_file_says_what_the_dockerfile_says() {
    let image = Image::make();
    let folder = image.unpack();
    let parse = |name: &str| serde_json::from_str::<Value>(&fs::read_to_string(folder.join(name)).unwrap()).unwrap();
    let manifest = &parse("manifest.json")[0];
    assert_eq!(manifest["RepoTags"], json!([NAME]));
    let config = manifest["Config"].as_str().unwrap();
    assert_eq!(config, format!("{}.json", digest(&folder.join(config))));
    let layer = manifest["Layers"][0].as_str().unwrap();
    let config = parse(config);
    assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", digest(&folder.join(layer)))]));
    assert_eq!(config["config"], of_the_dockerfile());

    let listed = tools::run(Path::new("tar"), [Path::new("-tvf"), &folder.join(layer)], &["--numeric-owner"]);
    let npc = listed.lines().find(|line| line.ends_with(" ./usr/bin/npc")).unwrap();
    assert!(npc.starts_with("-rwxr-xr-x 0/0 "), "{npc}");
    assert!(listed.contains("./usr/share/notice"), "{listed}");
    // The same again gives the same bytes.
    assert_eq!(digest(&image.file()), digest(&Image::make().file()));
}

#[test]
fn the_sbom_of_an_image_names_every_crate_and_every_package() {
    let image = Image::make();
    let folder = image.unpack();
    let manifest: Value = serde_json::from_str(&fs::read_to_string(folder.join("manifest.json")).unwrap()).unwrap();
    let layer = folder.join(manifest[0]["Layers"][0].as_str().unwrap());
    let bom = tools::run(Path::new("tar"), [Path::new("-xOf"), &layer], &["./usr/share/doc/npc/sbom.cdx.json"]);
    let bom: Value = serde_json::from_str(&bom).unwrap();
    assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
    let components = bom["components"].as_array().unwrap();
    let urls: BTreeSet<&str> = components.iter().map(|component| component["purl"].as_str().unwrap()).collect();
    assert_eq!(urls.len(), components.len(), "a component twice");
    let references: BTreeSet<&str> = components.iter().map(|one| one["bom-ref"].as_str().unwrap()).collect();
    assert_eq!(references.len(), components.len(), "a reference twice");
    let crates = dist::crates().into_iter().map(|(name, version)| format!("pkg:cargo/{name}@{version}"));
    // A colon and a plus are escaped (the purl specification, "Character encoding").
    let packages = ["iptables@1.8.9-2?arch=amd64", "libelf1@1%3A0.188-2.1%2Bb1?arch=amd64"];
    let expected: BTreeSet<String> =
        crates.chain(packages.iter().map(|package| format!("pkg:deb/debian/{package}"))).collect();
    assert_eq!(urls, expected.iter().map(String::as_str).collect());
    let licence = |purl: &str| components.iter().find(|one| one["purl"] == purl).unwrap()["licenses"].clone();
    let own = format!("pkg:cargo/npc-agent@{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(licence(&own), json!([{"expression": "Apache-2.0"}]));
}

/// A placeholder for a container engine: it writes down how it is called, and knows one digest.
const ENGINE: &str = r#"#!/bin/sh
case "$*" in
"buildx imagetools inspect "*docker.io/library/rust:*) echo sha256:5eed ;;
"buildx imagetools inspect "*) exit 1 ;;
*) printf '%s\n' "$@" >"$0.arguments" ;;
esac
"#;

#[test]
fn the_bases_of_an_image_are_given_by_digest_where_the_engine_knows_it() {
    let folder = tempfile::tempdir().unwrap();
    let engine = folder.path().join("docker");
    write_program(&engine, ENGINE).unwrap();
    let bases = |given: &[(&str, &str)]| {
        let mut build = Command::new(repository("deploy/image/build.sh"));
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        build.arg(NAME).env("PATH", path).env("NPC_ENGINE", "docker").envs(given.iter().copied());
        let output = build.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let arguments = fs::read_to_string(engine.with_extension("arguments")).unwrap();
        let bases = arguments.lines().filter_map(|line| line.split_once("_IMAGE="));
        bases.map(|(name, image)| (name.to_owned(), image.to_owned())).collect::<BTreeMap<_, _>>()
    };
    let of_docker = bases(&[]);
    let rust = &of_docker["RUST"];
    assert!(rust.starts_with("docker.io/library/rust:") && rust.ends_with("@sha256:5eed"), "{rust}");
    let debian = &of_docker["DEBIAN"];
    assert!(debian.starts_with("docker.io/library/debian:") && !debian.contains('@'), "{debian}");
    let fixed = "registry.example/debian@sha256:0ddba11";
    assert_eq!(bases(&[("NPC_DEBIAN_IMAGE", fixed)])["DEBIAN"], fixed);
    // What it gives are arguments of the Dockerfile.
    for name in of_docker.keys() {
        assert!(read("deploy/Dockerfile").contains(&format!("${{{name}_IMAGE}}")), "{name}");
    }
}

/// A containerd that keeps everything in one folder.
struct Containerd {
    child: Child,
    ctr: PathBuf,
    folder: TempDir,
}

impl Containerd {
    fn start() -> Option<Self> {
        let (containerd, ctr) = (tools::find("containerd")?, tools::find("ctr")?);
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n  address = {:?}\n",
            path("root"),
            path("state"),
            path("socket")
        );
        fs::write(path("config.toml"), config).unwrap();
        let mut command = Command::new(containerd);
        command.args(["--config", &path("config.toml")]).stderr(Stdio::piped());
        let mut started = Self { child: command.spawn().unwrap(), ctr, folder };
        let mut log = BufReader::new(started.child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        loop {
            match log.next() {
                Some(line) => seen.push(line.unwrap()),
                None => panic!("containerd ended:\n{}", seen.join("\n")),
            }
            if seen.last().unwrap().contains("successfully booted") {
                break;
            }
        }
        // It must not wait for a reader of its log.
        std::thread::spawn(move || log.for_each(drop));
        Some(started)
    }

    /// `ctr` with these words, in a mount namespace of its own, and then this script, with
    /// the folder `$1` to mount something on.
    fn ctr(&self, words: &str, script: &str) -> String {
        let mount = self.folder.path().join("mount");
        fs::create_dir_all(&mount).unwrap();
        let address = self.folder.path().join("socket");
        let script = format!("set -e; {} --address {} {words}; {script}", self.ctr.display(), address.display());
        let arguments = ["--mount", "sh", "-c", &script, "sh", mount.to_str().unwrap()];
        tools::run(Path::new("unshare"), [], &arguments)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As on a node: `ctr images import`, and then the kubelet finds it by its name.
#[test]
fn containerd_imports_the_image_file() {
    let Some(containerd) = Containerd::start() else { return };
    let image = Image::make();
    containerd.ctr(&format!("images import --snapshotter native {}", image.file().display()), "");
    let listed = containerd.ctr("images list --quiet", "");
    let name = listed.lines().find(|line| line.ends_with(&format!("/{NAME}"))).unwrap_or_else(|| panic!("{listed}"));
    let mounted = containerd.ctr(
        &format!("images mount --snapshotter native {name} \"$1\" >&2"),
        "cd \"$1\"; find . -type f | sort; usr/bin/npc",
    );
    assert_eq!(
        mounted,
        "./usr/bin/npc\n./usr/share/doc/npc/sbom.cdx.json\n./usr/share/doc/packages\n./usr/share/notice\nnpc\n"
    );
}
