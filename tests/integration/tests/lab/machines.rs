//! Machines on which controllers are set up by commands alone, as an operator does it.

use std::path::PathBuf;
use std::time::Duration;

use berth_integration::{Cli, World, controller, until};
use serde_json::Value;

/// The longest that a new controller may take to have caught up and vote, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Machines of a lab; on some of them nothing is yet.
pub(crate) struct Machines {
    pub(crate) world: World,
    authority: PathBuf,
}

impl Machines {
    /// Machines on which the cluster is yet to be formed, on the first of them.
    pub(crate) fn of(world: World) -> Self {
        let authority = world.lab().folder("c1").unwrap().join("authority");
        Self { world, authority }
    }

    /// Machines on the first of which a controller runs that the lab itself has formed.
    pub(crate) fn of_formed(world: World) -> Self {
        let authority = world.lab().state_dir().join("ca");
        Self { world, authority }
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.world.lab().folder(name).unwrap()
    }

    pub(crate) fn address(&self, name: &str) -> String {
        self.world.lab().member(name).unwrap().address.to_string()
    }

    /// The words that put a controller's files where the lab looks for them.
    fn place(&self, name: &str) -> Vec<String> {
        let folder = self.folder(name);
        ["--root".into(), folder.display().to_string(), "--data-dir".into(), folder.join("data").display().to_string()]
            .into()
    }

    pub(crate) async fn controller(&self, name: &str, words: &[&str]) -> String {
        let place = self.place(name);
        let all: Vec<&str> = words.iter().copied().chain(place.iter().map(String::as_str)).collect();
        let said = controller(&all).await;
        assert_eq!(said.exit, Some(0), "{said:#?}");
        said.out
    }

    /// Unpacks a bundle on its machine and starts the controller there.
    pub(crate) async fn join(&self, name: &str, bundle: &str) {
        self.controller(name, &["join", bundle]).await;
        self.world.start(name);
    }

    /// A cluster of one, and its operator's command line.
    pub(crate) async fn alone(&self) -> Cli {
        self.controller("c1", &["init", "--name", "c1", "--address", &self.address("c1"), "--domain", "rack-1"]).await;
        self.world.start("c1");
        Cli::new(self.folder("c1").join("operator/config.yaml"))
    }

    /// Adds a controller as an operator does: one command that waits, and meanwhile the work on the new machine.
    pub(crate) async fn add(&self, cli: &Cli, name: &str, more: &[&str]) {
        let (bundle, address) = (self.folder("c1").join(format!("{name}.bundle")), self.address(name));
        let (bundle, authority) = (bundle.display().to_string(), self.authority.display().to_string());
        let key = self.folder("c1").join("sealing.key").display().to_string();
        let words =
            ["cluster", "member", "add", name, "--address", &address, "--authority", &authority, "--out", &bundle];
        let words = [&words[..], &["--sealing-key", &key], more].concat();
        let joining = async {
            until("the bundle is written", SOON, async || {
                if PathBuf::from(&bundle).exists() { Ok(()) } else { Err("it is not there".to_owned()) }
            })
            .await;
            self.join(name, &bundle).await;
        };
        let (said, ()) = tokio::join!(cli.ok(&words), joining);
        assert_eq!(said, format!("{name} votes\n"));
    }

    /// Empties a machine, and forgets the bundle that was made for it.
    pub(crate) fn wipe(&self, name: &str) {
        std::fs::remove_dir_all(self.folder(name)).unwrap();
        std::fs::create_dir(self.folder(name)).unwrap();
        std::fs::remove_file(self.folder("c1").join(format!("{name}.bundle"))).unwrap();
    }
}

pub(crate) async fn status(cli: &Cli) -> Value {
    cli.json(&["cluster", "status"]).await
}

pub(crate) fn names<'a>(status: &'a Value, of: &str, wanted: impl Fn(&Value) -> bool) -> Vec<&'a str> {
    let all = status[of].as_array().unwrap().iter().filter(|one| wanted(one));
    all.map(|one| one[if of == "warnings" { "kind" } else { "name" }].as_str().unwrap()).collect()
}

pub(crate) fn voters(status: &Value) -> Vec<&str> {
    names(status, "members", |member| member["voter"] == true)
}
