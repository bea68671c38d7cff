//! Arguments, environment and configuration file become one value that the commands work with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_pki::{Credentials, CredentialsError, FileError};
use serde::Deserialize;

use crate::args::Global;
use crate::failure::Failure;
use crate::manifest::yaml;

/// How long to try to reach the cluster, if nothing else is said: longer than an election and a restart of a
/// controller take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A configuration file.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct File {
    /// The cluster that is meant when none is named.
    current: Option<String>,
    clusters: Vec<Cluster>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Cluster {
    name: String,
    #[serde(default)]
    endpoints: Vec<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// Whom to ask, and as whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Settings {
    /// Controllers, `host:port`, in the order of trying; at least one.
    pub(crate) endpoints: Vec<String>,
    /// The cluster's CA.
    pub(crate) ca: PathBuf,
    /// Our certificate.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// How long to try to reach the cluster.
    pub(crate) timeout: Duration,
}

impl Settings {
    /// Reads the configuration file that is meant and resolves.
    pub(crate) fn load(global: &Global) -> Result<Self, Failure> {
        let path = path(global)?;
        let text = std::fs::read_to_string(&path)
            .map_err(|error| no_file(&format!("cannot read the configuration {}: {error}", path.display())))?;
        Self::resolve(global, &path, &text)
    }

    /// Decides from what was read. Paths in the file are relative to the file's folder.
    fn resolve(global: &Global, path: &Path, text: &str) -> Result<Self, Failure> {
        let File { current, clusters } = yaml::one(&path.display().to_string(), text)
            .map_err(|problem| Failure::usage(problem.what).hint(problem.hint.unwrap_or_else(|| SHAPE.into())))?;
        let known = clusters.iter().map(|cluster| cluster.name.as_str()).collect::<Vec<_>>().join(", ");
        let wanted = global.cluster.as_ref().or(current.as_ref());
        let cluster = match (wanted, clusters.as_slice()) {
            (Some(name), _) => clusters.iter().find(|cluster| cluster.name == *name).ok_or_else(|| {
                Failure::usage(format!("{} has no cluster {name:?}", path.display()))
                    .hint(format!("known are: {known}"))
            })?,
            (None, [only]) => only,
            (None, _) => {
                return Err(Failure::usage(format!("{} does not say which cluster is meant", path.display()))
                    .hint(format!("set `current` there, or give --cluster; known are: {known}")));
            }
        };
        let endpoints = if global.endpoint.is_empty() { &cluster.endpoints } else { &global.endpoint };
        if endpoints.is_empty() {
            return Err(Failure::usage(format!("cluster {:?} has no endpoints in {}", cluster.name, path.display()))
                .hint("list the controllers' addresses there, `endpoints: [\"10.0.0.1:7440\"]`, or give --endpoint"));
        }
        if let Some(odd) = endpoints.iter().find(|endpoint| !is_endpoint(endpoint)) {
            return Err(
                Failure::usage(format!("{odd:?} is no endpoint")).hint("write host:port, such as 10.0.0.1:7440")
            );
        }
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let file = |given: &Option<PathBuf>, field: &str| {
            given.as_ref().map(|given| folder.join(given)).ok_or_else(|| {
                Failure::refused(format!("cluster {:?} has no `{field}` in {}", cluster.name, path.display()))
                    .denied("BE-4001")
                    .hint("clusters are entered with a certificate of the role operator: give `ca`, `cert` and `key`")
            })
        };
        Ok(Self {
            endpoints: endpoints.clone(),
            ca: file(&cluster.ca, "ca")?,
            cert: file(&cluster.cert, "cert")?,
            key: file(&cluster.key, "key")?,
            timeout: global.timeout.unwrap_or(TIMEOUT),
        })
    }

    /// Reads the certificate that these settings name.
    pub(crate) fn credentials(&self) -> Result<Credentials, Failure> {
        let read = |path: &Path, what: &str| {
            std::fs::read(path).map_err(|error| {
                Failure::refused(format!("cannot read the {what} {}: {error}", path.display()))
                    .denied("BE-4001")
                    .hint("the configuration names this file; see --config and --cluster")
            })
        };
        let (ca, cert) = (read(&self.ca, "CA certificate")?, read(&self.cert, "certificate")?);
        let key = berth_pki::read_private(&self.key).map_err(|error| match error {
            FileError::Io { source, .. } => {
                Failure::refused(format!("cannot read the key {}: {source}", self.key.display())).denied("BE-4001")
            }
            FileError::OpenToOthers { .. } | FileError::TooLarge { .. } => {
                Failure::refused(error.to_string()).denied("BE-4001")
            }
        })?;
        Credentials::from_pem(&ca, &cert, &key).map_err(|error| {
            let code = match &error {
                CredentialsError::Trust { .. } => "BE-4002",
                CredentialsError::File(_)
                | CredentialsError::Pem { .. }
                | CredentialsError::Identity(_)
                | CredentialsError::KeyMismatch(_)
                | CredentialsError::Roots(_)
                | CredentialsError::OtherIdentity { .. }
                | CredentialsError::NoFiles => "BE-4001",
            };
            let mut failure =
                Failure::refused(format!("the certificate {} is of no use: {error}", self.cert.display()));
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                if !error.to_string().contains(&cause.to_string()) {
                    failure = failure.note(format!("because: {cause}"));
                }
                source = cause.source();
            }
            failure.denied(code).hint("use `ca`, `cert` and `key` that were issued for this cluster")
        })
    }
}

/// The configuration file that is meant.
pub(crate) fn path(global: &Global) -> Result<PathBuf, Failure> {
    match (&global.config, std::env::var_os("HOME")) {
        (Some(path), _) => Ok(path.clone()),
        (None, Some(home)) => Ok(Path::new(&home).join(".config/berth/config.yaml")),
        (None, None) => Err(no_file("no configuration file is named and HOME is not set")),
    }
}

const SHAPE: &str = "see 'berth --help' for what a configuration looks like";

fn no_file(what: &str) -> Failure {
    Failure::usage(what).hint(format!("name one with --config or BERTH_CONFIG; {SHAPE}"))
}

fn is_endpoint(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', ' ', '@']) && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use insta::assert_snapshot;

    const FILE: &str = "\
current: lab
clusters:
  - name: lab
    endpoints: [\"10.88.0.11:7440\", \"10.88.0.12:7440\"]
    ca: tls/ca.pem
    cert: /elsewhere/operator.pem
    key: tls/operator.key
  - name: bare
    endpoints: [\"c:7440\"]
";

    fn resolve(global: &Global, text: &str) -> Result<Settings, Failure> {
        Settings::resolve(global, Path::new("/etc/x/config.yaml"), text)
    }

    #[test]
    fn paths_are_relative_to_the_configuration_and_arguments_go_first() {
        let global = Global { timeout: Some(Duration::from_secs(2)), ..Global::default() };
        let settings = resolve(&global, FILE).unwrap();
        assert_eq!(settings.endpoints, ["10.88.0.11:7440", "10.88.0.12:7440"]);
        assert_eq!(settings.ca, Path::new("/etc/x/tls/ca.pem"));
        assert_eq!(settings.cert, Path::new("/elsewhere/operator.pem"));
        assert_eq!(settings.timeout, Duration::from_secs(2));
        let global = Global { endpoint: vec!["[::1]:7".into()], ..Global::default() };
        assert_eq!(resolve(&global, FILE).unwrap().endpoints, ["[::1]:7"]);
    }

    #[test]
    fn each_fault_of_the_configuration_is_named_with_what_to_do() {
        let text = |cluster: Option<&str>, endpoint: &str, file: &str| {
            let endpoint = if endpoint.is_empty() { vec![] } else { vec![endpoint.to_owned()] };
            let global = Global { cluster: cluster.map(Into::into), endpoint, ..Global::default() };
            resolve(&global, file).unwrap_err().render(false)
        };
        assert_snapshot!(text(Some("prod"), "", FILE), @r#"
        error: /etc/x/config.yaml has no cluster "prod"
        hint: known are: lab, bare
        "#);
        assert_snapshot!(text(Some("bare"), "", FILE), @r#"
        error[BE-4001]: cluster "bare" has no `ca` in /etc/x/config.yaml
        hint: clusters are entered with a certificate of the role operator: give `ca`, `cert` and `key`
        "#);
        assert_snapshot!(text(None, "http://x:1", FILE), @r#"
        error: "http://x:1" is no endpoint
        hint: write host:port, such as 10.0.0.1:7440
        "#);
        assert_snapshot!(text(None, "", "clusters:\n  - name: x\n    endpoint: [\"a:1\"]\n"), @r"
        error: /etc/x/config.yaml:3:5: unknown field `endpoint`
        hint: did you mean `endpoints`?
        ");
        assert_snapshot!(text(None, "", "clusters: []\n"), @r"
        error: /etc/x/config.yaml does not say which cluster is meant
        hint: set `current` there, or give --cluster; known are: 
        ");
    }

    #[test]
    fn a_certificate_file_that_is_not_there_is_a_denial_with_its_path() {
        let mut settings = resolve(&Global::default(), FILE).unwrap();
        settings.ca = "/nonexistent/ca.pem".into();
        let failure = settings.credentials().unwrap_err();
        assert_eq!(failure.status(), crate::exit::ExitStatus::Denied);
        assert!(
            failure.render(false).starts_with("error[BE-4001]: cannot read the CA certificate /nonexistent/ca.pem: ")
        );
    }
}
