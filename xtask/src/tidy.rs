//! `./x tidy`: the rules of ARCHITECTURE.md that the compiler does not know.
//!
//! Each rule is a pure function from a parsed value to findings, so that a test can show it failing on a broken example. This file
//! reads the checkout and prints; the rules are in the files beside.

mod arrows;
mod documents;
mod manifests;
mod source;
mod workspace;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::checkout;
use source::SourceFile;
use workspace::Workspace;

/// A broken rule: what, why it matters, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// The rule's short name.
    rule: &'static str,
    /// What was found, with its place.
    what: String,
    /// Why there is such a rule.
    why: &'static str,
    /// What to do about it.
    fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    why: {}\n    do:  {}", self.rule, self.what, self.why, self.fix)
    }
}

/// Checks the whole checkout and prints each finding.
pub(crate) fn run() -> Result<()> {
    let root = checkout::root();
    let metadata = checkout::output(checkout::cargo().args(["metadata", "--format-version", "1", "--all-features"]))?;
    let workspace = Workspace::parse(&metadata)?;
    let tree = Tree::read(&root)?;

    let mut findings = Vec::new();
    findings.extend(arrows::workspace_edges(&workspace));
    findings.extend(arrows::ports(&workspace));
    findings.extend(arrows::closures(&workspace));
    findings.extend(manifests::membership(&workspace, &tree.manifests));
    findings.extend(manifests::lints(&tree.manifests));
    findings.extend(source::no_unsafe(&tree.sources));
    findings.extend(source::length(&tree.sources));
    findings.extend(documents::decisions(&tree.decisions));
    findings.extend(documents::error_pages(&tree.sources, &tree.error_pages));

    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("tidy found 1 broken rule"),
        count => bail!("tidy found {count} broken rules"),
    }
}

/// What the rules look at, apart from cargo's own metadata. Paths are relative to the checkout.
#[derive(Debug, Default)]
struct Tree {
    manifests: Vec<manifests::Manifest>,
    sources: Vec<SourceFile>,
    decisions: Vec<String>,
    error_pages: Vec<String>,
}

impl Tree {
    fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.visit(root, root)?;
        tree.decisions = names(&root.join("docs/decisions"))?;
        tree.error_pages = names(&root.join("docs/errors"))?;
        Ok(tree)
    }

    fn visit(&mut self, root: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if path.is_dir() {
                // Build output and hidden folders are not ours to judge.
                if name != "target" && !name.starts_with('.') {
                    self.visit(root, &path)?;
                }
            } else if name == "Cargo.toml" {
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {relative}"))?;
                self.manifests.push(manifests::Manifest::parse(&relative, &text)?);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {relative}"))?;
                self.sources.push(SourceFile { path: relative, text });
            }
        }
        Ok(())
    }
}

/// File names in a folder, sorted; none if there is no such folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if folder.is_dir() {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
