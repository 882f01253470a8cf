//! The image that `make image-tar` makes without a container engine.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{read, repository, tools};

const NAME: &str = "npc:test";

/// What stands for npc: the image is made of any program.
const PROGRAM: &str = "#!/bin/sh\necho npc\n";

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
    assert_eq!(mounted, "./usr/bin/npc\n./usr/share/notice\nnpc\n");
}
