//! Which cluster to ask: the kubeconfig that kubectl would read, and what is wrong with it in words.

use std::fmt;
use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{ExecAuthCluster, Kubeconfig, KubeconfigError, LoadDataError};

use super::proxy;
use crate::source::kube::words;
use crate::words::causes::sentence_of_parser;

/// Why there is no client for a cluster. The text has the cause in it, so no error
/// has it as a source that would be printed again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No kubeconfig, and not in a pod either; why.
    #[error("found no cluster: {0}; name a kubeconfig with --kubeconfig or KUBECONFIG")]
    NoCluster(String),
    /// A kubeconfig cannot be used: which, and why.
    #[error("cannot use the kubeconfig{}: {}", .0, kubeconfig_words(.1))]
    Kubeconfig(KubeconfigFiles, KubeconfigError),
    /// The kubeconfig names an API server by something else than its URL.
    #[error(
        "cannot use the kubeconfig: the server {0:?} of the cluster is no URL that npc can use; write it as \
         https://HOST:PORT"
    )]
    Server(String),
    /// What names a proxy is no URL of one.
    #[error(transparent)]
    Proxy(#[from] proxy::Unusable),
    /// The client cannot be made.
    #[error("cannot make a client for the API server: {}", words(.0))]
    Client(kube::Error),
    /// The program that the kubeconfig names for a token cannot be started: its name, and why.
    #[error(
        "the kubeconfig asks the program {0:?} for a token, and it cannot be started: {1}; install it, or correct \
         users[].user.exec of the kubeconfig"
    )]
    Exec(String, String),
    /// The program that the kubeconfig names for a token has failed: its name, and what it says.
    #[error(
        "the kubeconfig asks the program {0:?} for a token, and it failed: {1}; log in again, as for kubectl, or correct \
         users[].user.exec of the kubeconfig"
    )]
    ExecFailed(String, String),
    /// The kubeconfig has an auth-provider, which Kubernetes has given up: its name.
    #[error(
        "the kubeconfig has the auth-provider {0:?}, which kubectl since 1.26 does not have either; get a new kubeconfig \
         with users[].user.exec, as from gke-gcloud-auth-plugin or kubelogin"
    )]
    AuthProvider(String),
}

/// The files of a kubeconfig, as errors name them; empty where the error names the file itself.
#[derive(Debug, Clone, Default)]
pub struct KubeconfigFiles(String);

impl fmt::Display for KubeconfigFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " {}", self.0) }
    }
}

impl Error {
    /// A kubeconfig that was read from these files cannot be used.
    fn of_kubeconfig(files: &[PathBuf], error: KubeconfigError) -> Self {
        let names_file = matches!(error, KubeconfigError::ReadConfig(..) | KubeconfigError::FindPath);
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        Self::Kubeconfig(KubeconfigFiles(if names_file { String::new() } else { names.join(", ") }), error)
    }
}

/// What is wrong with a kubeconfig, in words.
fn kubeconfig_words(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(cause, path) if cause.kind() == std::io::ErrorKind::NotFound => {
            format!("there is no {}", path.display())
        }
        KubeconfigError::ReadConfig(cause, path) => format!("{} cannot be read: {}", path.display(), cause.kind()),
        KubeconfigError::FindPath => "there is no kubeconfig, and no home directory to find one in".to_owned(),
        KubeconfigError::CurrentContextNotSet => "it has no current-context; name one with --context".to_owned(),
        KubeconfigError::LoadContext(name) if name.is_empty() => {
            kubeconfig_words(&KubeconfigError::CurrentContextNotSet)
        }
        KubeconfigError::LoadContext(name) => format!("it has no context {name:?}"),
        KubeconfigError::LoadClusterOfContext(name) => {
            format!("it has no cluster {name:?}, which the context names")
        }
        KubeconfigError::Parse(cause) => format!("it cannot be read: {}", sentence_of_parser(&cause.to_string())),
        KubeconfigError::LoadCertificateAuthority(cause) => {
            format!("its certificate-authority cannot be read: {}", data_words(cause))
        }
        KubeconfigError::LoadClientCertificate(cause) => {
            format!("its client-certificate cannot be read: {}", data_words(cause))
        }
        KubeconfigError::LoadClientKey(cause) => format!("its client-key cannot be read: {}", data_words(cause)),
        KubeconfigError::ParseCertificates(_) => {
            "its certificate-authority is no certificate in PEM; give the file that kubectl works with".to_owned()
        }
        KubeconfigError::MissingClusterUrl => "its cluster has no server".to_owned(),
        other => words(other),
    }
}

/// Why a file that a kubeconfig names, or data in it, cannot be read.
fn data_words(error: &LoadDataError) -> String {
    match error {
        LoadDataError::ReadFile(cause, path) if cause.kind() == std::io::ErrorKind::NotFound => {
            format!("there is no {}", path.display())
        }
        LoadDataError::ReadFile(cause, path) => format!("{}: {}", path.display(), cause.kind()),
        LoadDataError::DecodeBase64(_) => "its data is no base64".to_owned(),
        LoadDataError::NoBase64DataOrFile => "it has neither data nor a file".to_owned(),
    }
}

/// The kubeconfig that kubectl would read, and its files. kubectl passes over files of the list in
/// KUBECONFIG that do not exist.
fn kubeconfig(named: Option<&Path>) -> Result<(Kubeconfig, Vec<PathBuf>), Error> {
    let read = |path: &Path| Kubeconfig::read_from(path).map_err(|error| Error::of_kubeconfig(&[path.into()], error));
    if let Some(path) = named {
        return Ok((read(path)?, vec![path.into()]));
    }
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let listed: Vec<PathBuf> = std::env::split_paths(&listed).filter(|path| !path.as_os_str().is_empty()).collect();
    if listed.is_empty() {
        let files: Vec<PathBuf> =
            std::env::home_dir().map(|home| home.join(".kube").join("config")).into_iter().collect();
        return match Kubeconfig::read() {
            Ok(config) => Ok((config, files)),
            Err(error) => Err(Error::of_kubeconfig(&files, error)),
        };
    }
    let is_there =
        |path: &&PathBuf| !std::fs::metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    let files: Vec<PathBuf> = listed.iter().filter(is_there).cloned().collect();
    let Some((first, others)) = files.split_first() else {
        let missing: Vec<String> = listed.iter().map(|path| path.display().to_string()).collect();
        return Err(Error::NoCluster(format!("there is no {}, which KUBECONFIG names", missing.join(" and no "))));
    };
    let mut config = read(first)?;
    for path in others {
        config = config.merge(read(path)?).map_err(|error| Error::of_kubeconfig(&files, error))?;
    }
    Ok((config, files))
}

/// How to reach the cluster that kubectl would talk to; in a pod without a kubeconfig, its own.
pub(super) fn configuration(named: Option<&Path>, context: Option<&str>) -> Result<Config, Error> {
    let read = kubeconfig(named)
        .and_then(|(config, files)| configured(&config, context).map_err(|error| Error::of_kubeconfig(&files, error)));
    let (mut config, proxy_url) = match read {
        Err(error) if named.is_none() && context.is_none() => match (Config::incluster(), error) {
            (Ok(config), _) => (config, None),
            (Err(_), Error::Kubeconfig(_, error @ (KubeconfigError::FindPath | KubeconfigError::ReadConfig(..)))) => {
                return Err(Error::NoCluster(kubeconfig_words(&error)));
            }
            (Err(_), error) => return Err(error),
        },
        read => read?,
    };
    config.proxy_url = proxy::proxy_for(&config.cluster_url, proxy_url.as_deref(), |name| std::env::var(name).ok())?;
    Ok(config)
}

/// What a kubeconfig says of the cluster of a context, and its `proxy-url`. kube's own constructor looks for a proxy
/// too, and refuses a NO_PROXY with an entry that it does not know, which kubectl passes over.
fn configured(read: &Kubeconfig, context: Option<&str>) -> Result<(Config, Option<String>), KubeconfigError> {
    let name = context.or(read.current_context.as_deref()).ok_or(KubeconfigError::CurrentContextNotSet)?;
    let context = read.contexts.iter().find(|of| of.name == name).and_then(|of| of.context.as_ref());
    let context = context.ok_or_else(|| KubeconfigError::LoadContext(name.to_owned()))?;
    let cluster = read.clusters.iter().find(|of| of.name == context.cluster).and_then(|of| of.cluster.as_ref());
    let cluster = cluster.ok_or_else(|| KubeconfigError::LoadClusterOfContext(context.cluster.clone()))?;
    // It has the certificates, which kube reads from where the cluster has them.
    let of_cluster = ExecAuthCluster::try_from(cluster)?;
    let server = cluster.server.as_deref().ok_or(KubeconfigError::MissingClusterUrl)?;
    let mut config = Config::new(server.parse().map_err(KubeconfigError::ParseClusterUrl)?);
    if let Some(namespace) = &context.namespace {
        config.default_namespace.clone_from(namespace);
    }
    if let Some(text) = &of_cluster.certificate_authority_data {
        let all = pem::parse_many(text).map_err(KubeconfigError::ParseCertificates)?;
        let certificates = all.into_iter().filter(|of| of.tag() == "CERTIFICATE").map(pem::Pem::into_contents);
        config.root_cert = Some(certificates.collect());
    }
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or_default();
    config.disable_compression = cluster.disable_compression.unwrap_or_default();
    config.tls_server_name.clone_from(&cluster.tls_server_name);
    // A user that is not there is none, as for kubectl.
    let user = read.auth_infos.iter().find(|of| Some(&of.name) == context.user.as_ref());
    config.auth_info = user.and_then(|of| of.auth_info.clone()).unwrap_or_default();
    if let Some(exec) = config.auth_info.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
        exec.cluster = Some(of_cluster);
    }
    Ok((config, cluster.proxy_url.clone().filter(|url| !url.is_empty())))
}

/// The namespace of the context that kubectl would use; none where it names none.
///
/// # Errors
/// If the kubeconfig cannot be read, or has no such context.
pub fn context_namespace(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Option<String>, Error> {
    let (config, files) = self::kubeconfig(kubeconfig)?;
    let Some(name) = context.or(config.current_context.as_deref()).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let Some(named) = config.contexts.iter().find(|of| of.name == name) else {
        return Err(Error::of_kubeconfig(&files, KubeconfigError::LoadContext(name.to_owned())));
    };
    let namespace = named.context.as_ref().and_then(|context| context.namespace.clone());
    Ok(namespace.filter(|namespace| !namespace.is_empty()))
}
