//! A Debian archive of its own, beside the one this machine uses.
//!
//! Guests are Debian whatever the machine is, so the package lists of their release are kept in the cache, with an empty status
//! file: nothing counts as installed, and nothing on this machine changes. Signatures are checked as always.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::checkout;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How old package lists may get before they are asked for anew: security updates should reach guests within the week.
const LISTS_LAST: Duration = Duration::from_secs(7 * 24 * 3600);

/// The package lists of one release.
#[derive(Debug)]
pub(super) struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// The archive of a release, with its lists in a folder.
    ///
    /// # Errors
    /// When the folder cannot be written, or Debian's keyring is missing.
    pub(super) fn open(folder: &Path, release: &str) -> Result<Self> {
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is missing, so packages cannot be verified; install debian-archive-keyring");
        }
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("cannot create {}", folder.join(part).display()))?;
        }
        let archive = Self { folder: folder.to_path_buf() };
        fs::write(archive.folder.join("status"), "")?;
        let targets = Command::new("apt-get")
            .args(["indextargets", "--format", "$(CREATED_BY) $(REPO_URI) $(CODENAME) $(COMPONENT)"])
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        let wanted = sources(release, &targets);
        let list = archive.sources_list();
        if fs::read_to_string(&list).ok().as_deref() != Some(&wanted) {
            fs::write(&list, wanted)?;
            // Lists of other sources are worth nothing.
            let _ = fs::remove_file(archive.stamp());
        }
        Ok(archive)
    }

    /// The file with the archive's sources, for mmdebstrap.
    pub(super) fn sources_list(&self) -> PathBuf {
        self.folder.join("sources.list")
    }

    fn stamp(&self) -> PathBuf {
        self.folder.join("updated")
    }

    /// Folder of earlier answers of `resolve`, which takes apt a second or two.
    fn resolved(&self) -> PathBuf {
        self.folder.join("resolved")
    }

    /// Brings the lists up to date if they are missing, old, or if it is asked for.
    ///
    /// # Errors
    /// When there are no lists yet and the mirror cannot be reached.
    pub(super) fn refresh(&self, asked: bool) -> Result<()> {
        let age = fs::metadata(self.stamp())
            .and_then(|stamp| stamp.modified())
            .ok()
            .map(|updated| SystemTime::now().duration_since(updated).unwrap_or_default());
        if !asked && age.is_some_and(|age| age < LISTS_LAST) {
            return Ok(());
        }
        eprintln!("image: fetching Debian's package lists");
        // What was resolved from the old lists no longer holds.
        let _ = fs::remove_dir_all(self.resolved());
        match checkout::output(self.apt("apt-get").args(["-q", "-o", "APT::Update::Error-Mode=any", "update"])) {
            Ok(_) => Ok(fs::write(self.stamp(), "")?),
            Err(error) if age.is_some() && !asked => {
                eprintln!(
                    "image: going on with the lists of {} days ago: {error:#}",
                    age.unwrap_or_default().as_secs() / 86400
                );
                Ok(())
            }
            Err(error) => Err(error).context("Debian's package lists cannot be fetched; is the mirror reachable?"),
        }
    }

    /// The exact packages that a recipe comes down to, one `name version` each, sorted.
    ///
    /// # Errors
    /// When a package does not exist in this release.
    pub(super) fn resolve(&self, kernel: Option<&str>, packages: &[String], install: bool) -> Result<Vec<String>> {
        let question =
            format!("{}+{}{}", kernel.unwrap_or_default(), packages.join("+"), if install { "+install" } else { "" });
        let answer = self.resolved().join(&super::hex(&Sha256::digest(question.as_bytes()))[..16]);
        if let Ok(text) = fs::read_to_string(&answer) {
            return Ok(text.lines().map(str::to_owned).collect());
        }
        let mut wanted: Vec<String> = packages.to_vec();
        if let Some(meta) = kernel {
            let text = checkout::output(self.apt("apt-cache").args(["depends", "--important", meta]))?;
            let versioned =
                kernel_package(&text).with_context(|| format!("{meta} depends on no linux-image package"))?;
            wanted.push(versioned);
        }
        let mut resolved = if install {
            let text = checkout::output(
                self.apt("apt-get")
                    .args(["-s", "-q", "--no-install-recommends", "install", "?essential"])
                    .args(kernel)
                    .args(&wanted),
            )?;
            installs(&text)
        } else {
            let text = checkout::output(self.apt("apt-cache").args(["--no-all-versions", "show"]).args(&wanted))?;
            stanzas(&text)
        };
        resolved.sort();
        resolved.dedup();
        if resolved.is_empty() {
            bail!("apt knows no version of {}", wanted.join(", "));
        }
        fs::create_dir_all(self.resolved())?;
        // Written whole or not at all, since another recipe of the same release may be resolving.
        let mut file = tempfile::NamedTempFile::new_in(self.resolved())?;
        file.write_all(resolved.join("\n").as_bytes())?;
        file.persist(&answer)?;
        Ok(resolved)
    }

    /// Puts the packages, as `resolve` named them, into a folder.
    ///
    /// # Errors
    /// When the mirror no longer has one of them, even after its lists were fetched anew.
    pub(super) fn download(&self, packages: &[String], folder: &Path) -> Result<()> {
        let exact: Vec<String> = packages.iter().map(|package| package.replacen(' ', "=", 1)).collect();
        checkout::output(self.apt("apt-get").args(["-q", "download"]).args(exact).current_dir(folder)).map_err(
            |error| {
                // A mirror drops superseded versions; next time the lists shall be new.
                let _ = fs::remove_file(self.stamp());
                error.context("packages cannot be fetched; if the mirror has newer ones, run the command again")
            },
        )?;
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = self.folder.display();
        for option in [
            format!("Dir::Etc::SourceList={folder}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            format!("Dir::State={folder}"),
            format!("Dir::State::Lists={folder}/lists"),
            format!("Dir::State::Status={folder}/status"),
            format!("Dir::Cache={folder}"),
            format!("Dir::Cache::Archives={folder}/archives"),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures::=amd64".to_owned(),
            "APT::Default-Release=".to_owned(),
            // The user _apt cannot read below a home folder.
            "APT::Sandbox::User=root".to_owned(),
            "Debug::NoLocking=1".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.env("LC_ALL", "C.UTF-8");
        command
    }
}

/// The sources of a release: those of this machine if it has them, because its mirror is the one that can be reached; else Debian's own.
/// `targets` is what `apt-get indextargets` prints: creator, address, code name, component.
fn sources(release: &str, targets: &str) -> String {
    let suites = [release.to_owned(), format!("{release}-updates"), format!("{release}-security")];
    let mut lines: Vec<String> = Vec::new();
    for target in targets.lines() {
        let words: Vec<&str> = target.split_whitespace().collect();
        if let ["Packages", address, codename, "main"] = words[..]
            && suites.iter().any(|suite| suite == codename)
        {
            lines.push(line(address.trim_end_matches('/'), codename));
        }
    }
    if !lines.iter().any(|line| line.ends_with(&format!(" {release} main"))) {
        lines = vec![
            line("http://deb.debian.org/debian", &suites[0]),
            line("http://deb.debian.org/debian", &suites[1]),
            line("http://deb.debian.org/debian-security", &suites[2]),
        ];
    }
    lines.sort();
    lines.dedup();
    lines.join("\n") + "\n"
}

fn line(address: &str, suite: &str) -> String {
    format!("deb [arch=amd64 signed-by={KEYRING}] {address} {suite} main")
}

/// The versioned kernel in what `apt-cache depends` says about the meta package.
fn kernel_package(depends: &str) -> Option<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
        .map(str::to_owned)
}

/// `Inst name (version archive [arch])` lines of a simulated installation.
fn installs(simulation: &str) -> Vec<String> {
    simulation
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
            Some(format!("{name} {}", rest.split_whitespace().next()?))
        })
        .collect()
}

/// `Package:` and `Version:` of each stanza of `apt-cache show`.
fn stanzas(text: &str) -> Vec<String> {
    text.split("\n\n")
        .filter_map(|stanza| {
            let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            Some(format!("{} {}", field("Package:")?, field("Version:")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_mirror_is_used_when_it_carries_the_release() {
        let targets = "Packages http://mirror.lan/debian/ bookworm main\nPackages http://mirror.lan/security/ bookworm-security main\n\
                       Packages http://mirror.lan/debian/ bookworm-backports main\nTranslations http://mirror.lan/debian/ bookworm main\n";
        let text = sources("bookworm", targets);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("http://mirror.lan/debian bookworm main"), "{text}");
        assert!(!text.contains("backports"), "{text}");
    }

    #[test]
    fn debians_own_mirror_serves_every_other_machine() {
        let text = sources("bookworm", "Packages http://archive.ubuntu.com/ubuntu/ noble main\n");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("http://deb.debian.org/debian-security bookworm-security main"), "{text}");
    }

    #[test]
    fn apts_answers_are_read() {
        assert_eq!(
            kernel_package("linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n").as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(
            installs(
                "NOTE: a simulation\nInst libc6 (2.36-9 Debian:12.1/stable [amd64])\nConf libc6 (2.36-9 Debian [amd64])\n"
            ),
            ["libc6 2.36-9"]
        );
        assert_eq!(stanzas("Package: a\nVersion: 1:2\n\nPackage: b\nVersion: 3\n"), ["a 1:2", "b 3"]);
    }
}
