//! The workspace as cargo tells it: members, what they ask for, and what that brings along.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

/// When a dependency is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// To run.
    Normal,
    /// To compile, by a build script.
    Build,
    /// To test.
    Dev,
}

/// A direct dependency of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    /// The depended-on package.
    pub(super) name: String,
    /// When it is needed.
    pub(super) kind: Kind,
}

/// A member of the workspace.
#[derive(Debug, Clone, Default)]
pub(super) struct Member {
    /// The manifest's folder relative to the checkout, `""` for the root.
    pub(super) folder: String,
    /// What it asks for in its manifest.
    pub(super) edges: Vec<Edge>,
    /// Names of all packages that its normal and build dependencies bring along, its own left out.
    pub(super) closure: BTreeSet<String>,
}

/// All members by package name.
#[derive(Debug, Clone, Default)]
pub(super) struct Workspace {
    /// The members.
    pub(super) members: BTreeMap<String, Member>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    workspace_root: String,
    resolve: Option<Resolve>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeEdge>,
}

#[derive(Deserialize)]
struct NodeEdge {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

impl Workspace {
    /// From `cargo metadata --format-version 1`.
    ///
    /// # Errors
    /// When the text is not that.
    pub(super) fn parse(metadata: &str) -> Result<Self> {
        let metadata: Metadata = serde_json::from_str(metadata).context("cargo metadata wrote something unexpected")?;
        let names: BTreeMap<&str, &str> =
            metadata.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
        let onward: BTreeMap<&str, Vec<&str>> = metadata
            .resolve
            .iter()
            .flat_map(|resolve| &resolve.nodes)
            .map(|node| {
                let needed = node
                    .deps
                    .iter()
                    .filter(|edge| edge.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev")));
                (node.id.as_str(), needed.map(|edge| edge.pkg.as_str()).collect())
            })
            .collect();
        let members = metadata
            .packages
            .iter()
            .filter(|package| metadata.workspace_members.contains(&package.id))
            .map(|package| {
                let folder = package
                    .manifest_path
                    .strip_prefix(&metadata.workspace_root)
                    .unwrap_or(&package.manifest_path)
                    .trim_start_matches('/')
                    .trim_end_matches("Cargo.toml")
                    .trim_end_matches('/')
                    .to_owned();
                let edges = package.dependencies.iter().map(Dependency::edge).collect();
                let closure = reachable(&package.id, &onward)
                    .into_iter()
                    .filter_map(|id| names.get(id).map(|name| (*name).to_owned()))
                    .collect();
                (package.name.clone(), Member { folder, edges, closure })
            })
            .collect();
        Ok(Self { members })
    }
}

impl Dependency {
    fn edge(&self) -> Edge {
        let kind = match self.kind.as_deref() {
            Some("dev") => Kind::Dev,
            Some("build") => Kind::Build,
            _ => Kind::Normal,
        };
        Edge { name: self.name.clone(), kind }
    }
}

/// Every package id that can be reached from one, the start left out.
fn reachable<'a>(start: &'a str, onward: &BTreeMap<&'a str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![start];
    while let Some(id) = open.pop() {
        for next in onward.get(id).into_iter().flatten() {
            if seen.insert(*next) {
                open.push(next);
            }
        }
    }
    seen.remove(start);
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_edges_and_closures_come_out_of_cargos_own_words() {
        let workspace = Workspace::parse(
            r#"{"packages":[
                {"id":"p#a","name":"a","manifest_path":"/w/deep/a/Cargo.toml","dependencies":[
                    {"name":"b","kind":null},{"name":"c","kind":"dev"},{"name":"d","kind":"build"}]},
                {"id":"r#b","name":"b","manifest_path":"/r/b/Cargo.toml","dependencies":[]},
                {"id":"r#c","name":"c","manifest_path":"/r/c/Cargo.toml","dependencies":[]},
                {"id":"r#d","name":"d","manifest_path":"/r/d/Cargo.toml","dependencies":[]},
                {"id":"r#e","name":"e","manifest_path":"/r/e/Cargo.toml","dependencies":[]}],
              "workspace_members":["p#a"],"workspace_root":"/w",
              "resolve":{"nodes":[
                {"id":"p#a","deps":[{"pkg":"r#b","dep_kinds":[{"kind":null}]},{"pkg":"r#c","dep_kinds":[{"kind":"dev"}]},
                                    {"pkg":"r#d","dep_kinds":[{"kind":"build"}]}]},
                {"id":"r#b","deps":[{"pkg":"r#e","dep_kinds":[{"kind":null}]}]}]}}"#,
        )
        .unwrap();
        let member = &workspace.members["a"];
        assert_eq!(workspace.members.len(), 1);
        assert_eq!(member.folder, "deep/a");
        assert_eq!(
            member.edges.iter().map(|edge| edge.kind).collect::<Vec<_>>(),
            [Kind::Normal, Kind::Dev, Kind::Build]
        );
        assert_eq!(member.closure.iter().map(String::as_str).collect::<Vec<_>>(), ["b", "d", "e"]);
    }
}
