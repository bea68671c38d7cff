//! `berth host confirm-dead`.

use std::io::{BufRead, IsTerminal, Write};

use berth_proto::v1;
use serde::Serialize;

use super::super::{Session, Writing};
use super::{service, update};
use crate::args::host::Named;
use crate::exit::ExitStatus;
use crate::failure::Failure;

/// What a person is told before typing the name.
fn warning(name: &str) -> String {
    format!(
        "\
THIS CANNOT BE TAKEN BACK.
You are about to say that the host {name:?} is DEAD. Its VMs lose their berths there and are started elsewhere.
If it is not dead but only cut off, each of its VMs runs TWICE from then on, with two disks that grow apart.
Be sure that the machine is off: look at it, or at its power.
"
    )
}

/// Has the name typed again, and asks.
pub(in crate::commands) async fn run(
    mut session: Session<'_>,
    host: Named,
    yes_i_am_sure: Option<String>,
) -> Result<ExitStatus, Failure> {
    let name_again = match yes_i_am_sure {
        Some(again) => again,
        None => typed(&host.name)?,
    };
    if name_again != host.name {
        return Err(Failure::usage(format!("{name_again:?} is not {:?}; nothing was said of any host", host.name))
            .code("BE-1021")
            .hint("give the same name twice"));
    }
    let Writing { write, effect } = update::writing(&host);
    let question = v1::ConfirmDeadRequest { write: Some(write), name: host.name.clone(), name_again };
    let answer = session
        .client
        .ask(&effect, question, |channel, question| async move { service(channel).confirm_dead(question).await })
        .await?;
    let view = ConfirmedView { host: host.name, evicted: answer.evicted, revision: answer.revision };
    session.print(&view, |_| {
        format!(
            "{} is taken for dead; {} placements there are ended and their VMs placed anew\n\
             should it come back, it ends what it still runs of them before it starts anything\n",
            view.host, view.evicted
        )
    })?;
    Ok(ExitStatus::Ok)
}

fn typed(name: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage("nobody is there to type the host's name a second time")
            .hint("in a script, give it with --yes-i-am-sure NAME; read 'berth host confirm-dead --help' first"));
    }
    let mut err = std::io::stderr();
    write!(err, "{}\nType the host's name to go on: ", warning(name))?;
    err.flush()?;
    let mut line = String::new();
    stdin.lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

#[derive(Serialize)]
struct ConfirmedView {
    host: String,
    evicted: u32,
    revision: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_names_the_host_and_the_price() {
        let text = warning("h1");
        for said in ["CANNOT BE TAKEN BACK", "\"h1\" is DEAD", "runs TWICE"] {
            assert!(text.contains(said), "{text}");
        }
    }
}
