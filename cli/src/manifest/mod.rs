//! Manifests: VMs as YAML documents, for files that are kept under version control.
//!
//! ```yaml
//! apiVersion: berth/v1
//! kind: VirtualMachine
//! metadata: { name: web-1, labels: { app: web } }
//! spec: { image: tiny, cpus: 2, memory: 256MiB }
//! ```
//!
//! Unknown fields are refused: a misspelt one would otherwise be a wish that nobody hears. A file is read only if it
//! is at most [`LIMIT`] long, and all its documents are understood before the first request is sent.

pub(crate) mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use berth_model::{Bytes, Name};
use berth_proto::v1;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::failure::Failure;
use crate::placement::{Device, RulesText, Template, Tuning};

/// The longest manifest: what the servers accept in one message.
const LIMIT: u64 = 4 << 20;

/// The version of this shape.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
enum ApiVersion {
    #[serde(rename = "berth/v1")]
    V1,
}

/// What a document speaks of.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    VirtualMachine,
}

/// One document.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: ApiVersion,
    #[serde(rename = "kind")]
    _kind: Kind,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: Name,
    project: Option<Name>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Spec {
    instance_type: Option<String>,
    cpus: Option<u32>,
    memory: Option<Amount>,
    performance: Option<Template>,
    preference: Option<String>,
    #[serde(default)]
    tuning: Tuning,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    rules: RulesText,
    image: String,
    disk_size: Option<Amount>,
    run_strategy: Option<RunStrategy>,
    user_data: Option<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
enum RunStrategy {
    Always,
    RerunOnFailure,
    Manual,
    Once,
    Halted,
}

/// An amount of bytes, as `256MiB` or as a plain number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Amount(Bytes);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of bytes such as 256MiB")
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Amount, E> {
                Ok(Amount(Bytes(count)))
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Amount, E> {
                u64::try_from(count)
                    .map(|count| Amount(Bytes(count)))
                    .map_err(|_| E::custom(format!("{count} is less than nothing")))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                text.parse().map(Amount).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Reads a manifest file, `-` for standard input, into requests. `project` is taken where a document names none.
pub(crate) fn read(path: &Path, project: &str) -> Result<Vec<v1::CreateVmRequest>, Failure> {
    if path == Path::new("-") {
        return parse("standard input", &limited("standard input", std::io::stdin().lock())?, project);
    }
    let name = path.display().to_string();
    let failed = |error| Failure::refused(format!("cannot read {name}: {error}"));
    let file = std::fs::File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > LIMIT {
        return Err(too_long(&name, &format!("it has {length} bytes")));
    }
    parse(&name, &limited(&name, file)?, project)
}

fn limited(name: &str, source: impl Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    source
        .take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::refused(format!("cannot read {name}: {error}")))?;
    if bytes.len() as u64 > LIMIT {
        return Err(too_long(name, "it goes on after that"));
    }
    String::from_utf8(bytes).map_err(|_| Failure::refused(format!("{name} is not UTF-8 text")).code("BE-1007"))
}

fn too_long(name: &str, why: &str) -> Failure {
    Failure::refused(format!("{name} is longer than the 4 MiB that a manifest may have: {why}"))
        .code("BE-1009")
        .hint("is this the right file? Several VMs may be split over several files")
}

/// Reads manifests.
fn parse(source: &str, text: &str, project: &str) -> Result<Vec<v1::CreateVmRequest>, Failure> {
    let documents: Vec<Document> = yaml::many(source, text).map_err(|yaml::Problem { what, hint }| {
        let failure = Failure::refused(what).code("BE-1007");
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })?;
    if documents.is_empty() {
        return Err(Failure::refused(format!("{source} holds no document")).code("BE-1007"));
    }
    Ok(documents.into_iter().map(|document| request(document, project)).collect())
}

fn request(document: Document, project: &str) -> v1::CreateVmRequest {
    let Document { _api_version: _, _kind: _, metadata, spec } = document;
    let Metadata { name, project: own_project, labels, annotations } = metadata;
    let Spec {
        instance_type,
        cpus,
        memory,
        performance,
        preference,
        tuning,
        devices,
        rules,
        image,
        disk_size,
        run_strategy,
        user_data,
    } = spec;
    v1::CreateVmRequest {
        write: None,
        project: own_project.map_or_else(|| project.to_owned(), |name| name.to_string()),
        name: name.to_string(),
        labels,
        annotations,
        dry_run: false,
        spec: Some(v1::VmSpec {
            instance_type: instance_type.unwrap_or_default(),
            cpus,
            memory_bytes: memory.map(|Amount(Bytes(bytes))| bytes),
            performance: performance.map_or(v1::Performance::Unspecified, Into::into).into(),
            preference: preference.unwrap_or_default(),
            tuning: (tuning != Tuning::default()).then(|| (&tuning).into()),
            devices: devices.iter().map(Into::into).collect(),
            rules: (rules != RulesText::default()).then(|| rules.into()),
            image,
            disk_size_bytes: disk_size.map(|Amount(Bytes(bytes))| bytes),
            run_strategy: match run_strategy {
                None => v1::RunStrategy::Unspecified,
                Some(RunStrategy::Always) => v1::RunStrategy::Always,
                Some(RunStrategy::RerunOnFailure) => v1::RunStrategy::RerunOnFailure,
                Some(RunStrategy::Manual) => v1::RunStrategy::Manual,
                Some(RunStrategy::Once) => v1::RunStrategy::Once,
                Some(RunStrategy::Halted) => v1::RunStrategy::Halted,
            }
            .into(),
            user_data: user_data.map(String::into_bytes),
            ..v1::VmSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests;
