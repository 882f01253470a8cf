//! What `make dist` ships, of binaries that are built already.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::{npc, repository, tools};

/// The files of a release.
struct Release {
    files: TempDir,
    /// `npc-VERSION-TARGET`.
    name: String,
}

impl Release {
    /// Made of a folder of binaries.
    fn make(binaries: &Path, sbom: bool) -> Self {
        Self::make_signed(binaries, sbom, None)
    }

    /// The same with a key that signs it.
    fn make_signed(binaries: &Path, sbom: bool, key: Option<&Path>) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut script = Command::new(repository("deploy/dist.sh"));
        script.env("NPC_DIST_BINARIES", binaries).env("NPC_DIST_FILES", files.path());
        if !sbom {
            script.env("NPC_DIST_SBOM", "no");
        }
        script.env_remove("NPC_SIGN_KEY").envs(key.map(|key| ("NPC_SIGN_KEY", key)));
        let output = script.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let names = files.path().read_dir().unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let name = names.into_iter().find_map(|name| name.strip_suffix(".tar.gz").map(str::to_owned)).unwrap();
        Self { files, name }
    }

    fn tarball(&self) -> PathBuf {
        self.files.path().join(format!("{}.tar.gz", self.name))
    }
}

/// A folder with npc as it was built, less what only a debugger reads, with what stands for
/// the CNI plugin, and with what is no product.
fn binaries(npc: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let stripped = folder.path().join("npc");
    tools::run(Path::new("strip"), [Path::new("-o"), &stripped, npc], &[]);
    write_static(&folder.path().join("npc-cni"), "");
    fs::write(folder.path().join("npc-lab"), "a test's").unwrap();
    folder
}

/// Compiles a static program, which stands for the CNI plugin.
fn write_static(file: &Path, more: &str) {
    let source = file.with_extension("c");
    fs::write(&source, format!("{more}\nvoid _start(void) {{ for (;;); }}\n")).unwrap();
    let flags = ["-static", "-nostdlib", "-o"];
    tools::run(Path::new("cc"), flags.map(Path::new).into_iter().chain([file, &source]), &[]);
    fs::remove_file(source).unwrap();
}

/// A node runs the plugin with the libraries that the node has, once for each pod.
#[test]
fn the_plugin_is_shipped_only_if_it_is_static_and_small() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("npc-cni");
    let check = || {
        let output = Command::new(repository("deploy/image/static.sh")).arg(&plugin).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    write_static(&plugin, "");
    assert_eq!(check(), (true, String::new()));
    write_static(&plugin, "const char large[2000000] = {1};");
    let (is_good, message) = check();
    assert!(!is_good && message.contains("fewer than 2000000"), "{message}");
    fs::copy(std::env::current_exe().unwrap(), &plugin).unwrap();
    let (is_good, message) = check();
    assert!(!is_good && message.contains("is not static"), "{message}");
    fs::write(&plugin, "any").unwrap();
    assert!(!check().0);
    // Both scripts check it before they make anything.
    fs::write(folder.path().join("npc"), "any").unwrap();
    let files = folder.path().join("files");
    let mut dist = Command::new(repository("deploy/dist.sh"));
    dist.env("NPC_DIST_BINARIES", folder.path()).env("NPC_DIST_FILES", &files).env("NPC_DIST_SBOM", "no");
    assert!(!dist.output().unwrap().status.success() && !files.exists());
    let mut tar = Command::new(repository("deploy/image/tar.sh"));
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let image = folder.path().join("image.tar");
    tar.args(["npc:test"]).arg(&image).arg(&plugin).env("NPC_ROOTFS", root);
    assert!(!tar.output().unwrap().status.success() && !image.exists());
}

/// All files below a folder, by their paths from there.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in next.read_dir().unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn a_release_holds_what_is_made_and_nothing_that_is_not() {
    let Some(npc) = npc() else { return };
    let binaries = binaries(&npc);
    let release = Release::make(binaries.path(), false);
    let unpacked = tempfile::tempdir().unwrap();
    let arguments = [Path::new("-xzf"), &release.tarball(), Path::new("-C"), unpacked.path()];
    tools::run(Path::new("tar"), arguments, &[]);
    let root = unpacked.path().join(&release.name);

    let single = [
        "npc",
        "npc-cni",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "ARCHITECTURE.md",
        "deploy/README.md",
        "deploy/aks.md",
    ];
    let mut expected: BTreeSet<PathBuf> = single.into_iter().map(PathBuf::from).collect();
    for folder in ["docs", "deploy/systemd", "deploy/kustomize", "deploy/chart"] {
        expected.extend(files(&repository(folder)).into_iter().map(|file| Path::new(folder).join(file)));
    }
    assert_eq!(files(&root), expected);
    for file in expected.iter().filter(|file| !["npc", "npc-cni"].map(Path::new).contains(&file.as_path())) {
        assert_eq!(fs::read(root.join(file)).unwrap(), fs::read(repository("").join(file)).unwrap(), "{file:?}");
    }
    let version = tools::run(&root.join("npc"), [], &["--version"]);
    assert_eq!(version.trim(), format!("npc {}", env!("CARGO_PKG_VERSION")));
    assert!(release.name.starts_with(&format!("npc-{}-", env!("CARGO_PKG_VERSION"))), "{}", release.name);

    let sums = release.files.path().join("SHA256SUMS");
    assert_eq!(fs::read_to_string(&sums).unwrap().lines().count(), 1);
    let check = Command::new("sha256sum").arg("-c").arg(&sums).current_dir(release.files.path()).output().unwrap();
    assert!(check.status.success(), "{check:?}");
    // The same again gives the same bytes.
    let again = Release::make(binaries.path(), false);
    assert_eq!(fs::read_to_string(again.files.path().join("SHA256SUMS")).unwrap(), fs::read_to_string(sums).unwrap());
}

#[test]
fn a_release_is_signed_where_a_key_is_given() {
    let Some(ssh_keygen) = tools::find("ssh-keygen") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (key, programs) = (folder.path().join("key"), folder.path().join("programs"));
    tools::run(&ssh_keygen, [], &["-q", "-t", "ed25519", "-N", "", "-C", "npc", "-f", key.to_str().unwrap()]);
    fs::create_dir(&programs).unwrap();
    fs::write(programs.join("npc"), "a placeholder").unwrap();
    write_static(&programs.join("npc-cni"), "");
    let release = Release::make_signed(&programs, false, Some(&key));
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    let signers = folder.path().join("signers");
    fs::write(&signers, format!("release@npc.example {public}")).unwrap();
    let sums = release.files.path().join("SHA256SUMS");
    let is_signed = || {
        let mut verify = Command::new(&ssh_keygen);
        verify.args(["-q", "-Y", "verify", "-n", "npc-release", "-I", "release@npc.example", "-f"]).arg(&signers);
        verify.arg("-s").arg(release.files.path().join("SHA256SUMS.sig"));
        verify.stdin(fs::File::open(&sums).unwrap()).output().unwrap().status.success()
    };
    assert!(is_signed());
    fs::write(&sums, "0  npc\n").unwrap();
    assert!(!is_signed(), "the signature does not hold for other sums");
}

/// The crates that are compiled into npc, as cargo knows them: name and version.
pub(crate) fn crates() -> BTreeSet<(String, String)> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = ["tree", "--locked", "--offline", "--package", "npc-agent", "--edges", "normal", "--prefix", "none"];
    let output = Command::new(cargo).args(tree).current_dir(repository("")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.lines().map(|line| line.split(' '));
    words.map(|mut words| (words.next().unwrap().to_owned(), words.next().unwrap()[1..].to_owned())).collect()
}

#[test]
fn the_sbom_of_a_release_names_every_crate_of_its_binary() {
    // A tool that cargo finds by itself; a release installs it.
    if tools::find("cargo-cyclonedx").is_none() {
        return;
    }
    let Some(npc) = npc() else { return };
    let release = Release::make(npc.parent().unwrap(), true);
    let bom = release.files.path().join(format!("{}.cdx.json", release.name));
    let bom: Value = serde_json::from_slice(&fs::read(bom).unwrap()).unwrap();
    assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!(bom["metadata"]["component"]["name"], "npc-agent");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let components = bom["components"].as_array().unwrap().iter().chain([&bom["metadata"]["component"]]);
    let named: BTreeSet<_> =
        components.map(|component| (text(&component["name"]), text(&component["version"]))).collect();
    let compiled = crates();
    assert!(compiled.len() > 100, "{compiled:?}");
    let missing: Vec<_> = compiled.difference(&named).collect();
    assert!(missing.is_empty(), "not in the SBOM: {missing:?}");
    assert!(
        !bom.to_string().contains(repository("").canonicalize().unwrap().to_str().unwrap()),
        "a path of this machine"
    );
    let sums = fs::read_to_string(release.files.path().join("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), 3, "{sums}");
    assert!(!files(&repository("agent")).contains(Path::new("npc-sbom.json")));
}
