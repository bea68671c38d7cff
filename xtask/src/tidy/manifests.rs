//! What every crate's manifest must say.

use anyhow::{Context, Result};

use super::Finding;
use super::workspace::Workspace;

/// A `Cargo.toml`, as far as the rules read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Its folder relative to the checkout, `""` for the root.
    pub(super) folder: String,
    /// The package's name; the root of a workspace may have none.
    pub(super) package: Option<String>,
    /// Whether it says `[lints] workspace = true`.
    pub(super) inherits_lints: bool,
}

impl Manifest {
    /// From a manifest's path and text.
    ///
    /// # Errors
    /// When it is not TOML.
    pub(super) fn parse(path: &str, text: &str) -> Result<Self> {
        let table: toml::Table = text.parse().with_context(|| format!("{path} is not TOML"))?;
        let at = |section: &str, key: &str| table.get(section).and_then(|section| section.get(key)).cloned();
        Ok(Self {
            folder: path.trim_end_matches("Cargo.toml").trim_end_matches('/').to_owned(),
            package: at("package", "name").and_then(|name| name.as_str().map(str::to_owned)),
            inherits_lints: at("lints", "workspace").and_then(|value| value.as_bool()).unwrap_or(false),
        })
    }
}

/// Each folder with a package is a member.
pub(super) fn membership(workspace: &Workspace, manifests: &[Manifest]) -> Vec<Finding> {
    manifests
        .iter()
        .filter_map(|manifest| manifest.package.as_ref().map(|package| (manifest, package)))
        .filter(|(manifest, _)| !workspace.members.values().any(|member| member.folder == manifest.folder))
        .map(|(manifest, package)| Finding {
            rule: "members",
            what: format!("{}/ holds the package {package}, which is no member of the workspace", manifest.folder),
            why: "what is not a member is neither built nor tested nor checked",
            fix: format!("add \"{}\" to the members in Cargo.toml, or remove the folder", manifest.folder),
        })
        .collect()
}

/// Each package takes the workspace's lints.
pub(super) fn lints(manifests: &[Manifest]) -> Vec<Finding> {
    manifests
        .iter()
        .filter(|manifest| manifest.package.is_some() && !manifest.inherits_lints)
        .map(|manifest| Finding {
            rule: "lints",
            what: format!("{}/Cargo.toml does not take the workspace's lints", manifest.folder),
            why: "one crate without lints is where unsafe code and unwraps gather",
            fix: "add the two lines: [lints] and workspace = true".to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::workspace::Member;

    #[test]
    fn a_crate_without_the_workspaces_lints_is_found() {
        let good = Manifest::parse("a/Cargo.toml", "[package]\nname = \"a\"\n[lints]\nworkspace = true\n").unwrap();
        let bad = Manifest::parse("deep/b/Cargo.toml", "[package]\nname = \"b\"\n").unwrap();
        let root = Manifest::parse("Cargo.toml", "[workspace]\nmembers = []\n").unwrap();
        let findings = lints(&[good, bad, root]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.starts_with("deep/b/Cargo.toml"), "{}", findings[0]);
    }

    #[test]
    fn a_crate_that_cargo_does_not_know_is_found() {
        let mut workspace = Workspace::default();
        workspace.members.insert("a".to_owned(), Member { folder: "a".to_owned(), ..Member::default() });
        let known = Manifest::parse("a/Cargo.toml", "[package]\nname = \"a\"\n").unwrap();
        let stray = Manifest::parse("attic/Cargo.toml", "[package]\nname = \"old\"\n").unwrap();
        let findings = membership(&workspace, &[known, stray]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("attic/ holds the package old"), "{}", findings[0]);
    }
}
