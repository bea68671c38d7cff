//! `./x image NAME`: a guest image from Debian packages, built once for each state of its recipe and of the packages it names.
//!
//! A recipe is a folder under `images/`: `recipe.toml` names the packages, `build.sh` turns them into a disk. The key of an image
//! is the SHA-256 over the recipe's files and the exact versions of its packages, so an image is found again by any checkout
//! with the same recipe, and a changed script or a security update makes a new one. Two builds at once wait for each other.

mod apt;
mod check;
#[cfg(test)]
mod tiny_seed_tests;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checkout;
use apt::Archive;

/// Which image, and how to tell about it.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Args {
    /// The recipe's folder under images/: tiny, debian
    name: String,
    /// Prints only the path of the disk
    #[arg(long, conflicts_with = "json")]
    print_path: bool,
    /// Prints name, path, SHA-256 and virtual size as one line of JSON
    #[arg(long)]
    json: bool,
    /// Boots it under plain QEMU and checks what the recipe promises
    #[arg(long)]
    check: bool,
    /// Asks the mirror for newer packages first
    #[arg(long)]
    refresh: bool,
}

/// A finished image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// The recipe's name.
    pub(crate) name: String,
    /// The qcow2 file.
    pub(crate) path: PathBuf,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub(crate) sha256: String,
    /// Bytes of the disk that the guest sees.
    pub(crate) virtual_size: u64,
    /// Package versions it was made from, one `name version` each.
    pub(crate) packages: Vec<String>,
}

impl Image {
    /// What another program needs to use the image, as one line; the packages stay in the image's own folder.
    pub(crate) fn to_json(&self) -> String {
        let Self { name, path, sha256, virtual_size, packages: _ } = self;
        serde_json::json!({ "name": name, "path": path, "sha256": sha256, "virtual_size": virtual_size }).to_string()
    }
}

/// `recipe.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    /// The Debian release by code name.
    release: String,
    /// The kernel's meta package; the versioned package that it depends on is an input as well.
    kernel: Option<String>,
    /// Packages that the build takes apart, or installs.
    packages: Vec<String>,
    /// Whether the packages are installed with all that they depend on (an operating system) or only downloaded (their files are used).
    #[serde(default)]
    install: bool,
    /// How long a build takes, in seconds, for those who wait.
    build_takes_s: u64,
    /// What a boot of it must show.
    check: Option<check::Promise>,
}

/// Paths below images/ and contents.
type Files = Vec<(String, Vec<u8>)>;

/// Entry of the sub-command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let image = ensure(&args.name, args.refresh)?;
    if args.check {
        check(&args.name)?;
    }
    if args.json {
        println!("{}", image.to_json());
    } else if args.print_path {
        println!("{}", image.path.display());
    } else {
        println!("name          {}", image.name);
        println!("path          {}", image.path.display());
        println!("sha256        {}", image.sha256);
        println!("virtual size  {} MiB", image.virtual_size / (1024 * 1024));
    }
    Ok(())
}

/// Boots the image and holds it against its recipe's promises.
///
/// # Errors
/// When a promise is broken, or the recipe makes none.
pub(crate) fn check(name: &str) -> Result<()> {
    let image = ensure(name, false)?;
    let (recipe, _) = read_recipe(name)?;
    let promise =
        recipe.check.with_context(|| format!("images/{name}/recipe.toml has no [check]: it promises nothing"))?;
    check::boot(&image, &promise)
}

/// The image, built if there is none for the present recipe and packages.
///
/// # Errors
/// When the recipe is unknown, the mirror cannot be reached and no package list is there from before, or the build fails.
pub(crate) fn ensure(name: &str, refresh: bool) -> Result<Image> {
    let (recipe, files) = read_recipe(name)?;
    let cache = checkout::cache()?;
    let images = cache.join("images");
    fs::create_dir_all(&images).with_context(|| format!("cannot create {}", images.display()))?;
    let _lock = lock(&images.join(format!("{name}.lock")), name)?;

    let archive = Archive::open(&cache.join("apt").join(&recipe.release), &recipe.release)?;
    archive.refresh(refresh)?;
    let packages = archive.resolve(recipe.kernel.as_deref(), &recipe.packages, recipe.install)?;
    let key = key(&files, &packages);
    let folder = images.join(format!("{name}-{}", &key[..16]));
    if let Some(image) = read_finished(&folder)? {
        return Ok(image);
    }
    build(name, &recipe, &archive, packages, &images, &folder)
}

/// Names of the recipes that there are.
fn recipes() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(checkout::root().join("images"))? {
        let path = entry?.path();
        if path.join("recipe.toml").is_file() {
            names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// The recipe and all files that its image depends on, shared functions included.
fn read_recipe(name: &str) -> Result<(Recipe, Files)> {
    let folder = checkout::root().join("images");
    let recipes = recipes()?;
    if !recipes.iter().any(|recipe| recipe == name) {
        bail!("there is no recipe {name:?} under images/; there are: {}", recipes.join(", "));
    }
    let mut files = Vec::new();
    for part in [name, "lib"] {
        collect(&folder, &folder.join(part), &mut files)?;
    }
    // Prose changes no image.
    files.retain(|(path, _)| Path::new(path).extension().is_none_or(|extension| extension != "md"));
    files.sort();
    let text = fs::read_to_string(folder.join(name).join("recipe.toml"))?;
    let recipe = toml::from_str(&text).with_context(|| format!("images/{name}/recipe.toml"))?;
    Ok((recipe, files))
}

fn collect(root: &Path, folder: &Path, files: &mut Files) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.push((name, fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?));
        }
    }
    Ok(())
}

/// SHA-256 over names, lengths and contents of the files, and over the package versions.
fn key(files: &[(String, Vec<u8>)], packages: &[String]) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    for (name, content) in files {
        add(name.as_bytes());
        add(content);
    }
    for package in packages {
        add(package.as_bytes());
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Held for as long as the returned file lives.
fn lock(path: &Path, name: &str) -> Result<File> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("image {name}: waiting for another build of it");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// What an earlier build left, if it finished: the description is written last.
fn read_finished(folder: &Path) -> Result<Option<Image>> {
    let description = folder.join("image.json");
    if !description.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(&description)?;
    let mut image: Image = serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged; remove its folder", description.display()))?;
    // The cache may have been moved since.
    image.path = folder.join("disk.qcow2");
    if !image.path.is_file() {
        bail!("{} is gone, although its description is there; remove {}", image.path.display(), folder.display());
    }
    Ok(Some(image))
}

/// Builds beside the final folder and moves it there whole.
fn build(
    name: &str,
    recipe: &Recipe,
    archive: &Archive,
    packages: Vec<String>,
    images: &Path,
    folder: &Path,
) -> Result<Image> {
    let started = Instant::now();
    eprintln!("image {name}: building, about {} s", recipe.build_takes_s);
    let scratch =
        tempfile::Builder::new().prefix(&format!(".{name}-")).tempdir_in(images).context("no scratch folder")?;
    let (debs, work, out) = (scratch.path().join("packages"), scratch.path().join("work"), scratch.path().join("out"));
    for folder in [&debs, &work, &out] {
        fs::create_dir(folder)?;
    }
    if !recipe.install {
        eprintln!("image {name}: fetching {}", packages.join(", "));
        archive.download(&packages, &debs)?;
    }
    let root = checkout::root();
    let disk = out.join("disk.qcow2");
    let mut command = Command::new("bash");
    command
        .arg(root.join("images").join(name).join("build.sh"))
        .current_dir(&work)
        .env("RECIPE", root.join("images").join(name))
        .env("LIB", root.join("images/lib"))
        .env("PACKAGES", &debs)
        .env("WORK", &work)
        .env("OUT", &disk)
        .env("RELEASE", &recipe.release)
        .env("SOURCES", archive.sources_list())
        .env("INSTALL", recipe.kernel.iter().chain(&recipe.packages).cloned().collect::<Vec<_>>().join(","))
        .env("LC_ALL", "C.UTF-8");
    run_build(name, &mut command, started)?;

    let image = Image {
        name: name.to_owned(),
        path: folder.join("disk.qcow2"),
        sha256: file_sha256(&disk)?,
        virtual_size: virtual_size(&disk)?,
        packages,
    };
    fs::write(out.join("image.json"), serde_json::to_string_pretty(&image)?)?;
    fs::rename(&out, folder).with_context(|| format!("cannot move the image to {}", folder.display()))?;
    eprintln!("image {name}: built in {:.1} s", started.elapsed().as_secs_f64());
    Ok(image)
}

/// Runs build.sh: its standard output is progress, its standard error is shown when it fails.
fn run_build(name: &str, command: &mut Command, started: Instant) -> Result<()> {
    let log = tempfile::NamedTempFile::new()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.reopen()?)
        .spawn()
        .context("cannot start bash")?;
    let progress = child.stdout.take().expect("standard output is piped");
    for line in BufReader::new(progress).lines() {
        eprintln!("image {name}: [{:5.1} s] {}", started.elapsed().as_secs_f64(), line?);
    }
    let status = child.wait()?;
    if !status.success() {
        let text = fs::read_to_string(log.path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        bail!(
            "images/{name}/build.sh failed ({status}); its last words:\n{}",
            lines[lines.len().saturating_sub(40)..].join("\n")
        );
    }
    Ok(())
}

fn file_sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("the build left no {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

fn virtual_size(disk: &Path) -> Result<u64> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(rename = "virtual-size")]
        virtual_size: u64,
    }
    let text = checkout::output(Command::new("qemu-img").args(["info", "--output=json"]).arg(disk))?;
    let info: Info = serde_json::from_str(&text).context("qemu-img info wrote something unexpected")?;
    Ok(info.virtual_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(content: &str) -> Files {
        vec![("tiny/build.sh".to_owned(), content.as_bytes().to_vec())]
    }

    #[test]
    fn the_key_follows_scripts_and_package_versions() {
        let packages = ["busybox-static 1.35".to_owned()];
        let base = key(&files("echo"), &packages);
        assert_eq!(base, key(&files("echo"), &packages));
        assert_ne!(base, key(&files("echo x"), &packages));
        assert_ne!(base, key(&files("echo"), &["busybox-static 1.36".to_owned()]));
    }

    #[test]
    fn every_recipe_in_the_checkout_can_be_read() {
        for name in recipes().unwrap() {
            let (recipe, files) = read_recipe(&name).unwrap();
            assert!(!recipe.packages.is_empty(), "{name}");
            assert!(files.iter().any(|(path, _)| path == "lib/disk.sh"), "{name}");
        }
    }

    #[test]
    fn an_unknown_recipe_is_answered_with_the_known_ones() {
        let error = read_recipe("windows").unwrap_err().to_string();
        assert!(error.contains("tiny"), "{error}");
    }

    #[test]
    fn an_unfinished_build_is_not_an_image() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("disk.qcow2"), "half").unwrap();
        assert_eq!(read_finished(folder.path()).unwrap(), None);
    }
}
