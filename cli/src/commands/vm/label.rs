//! `berth vm label`.

use std::collections::BTreeMap;

use berth_proto::v1;

use super::super::{Session, Writing, given};
use super::service;
use crate::args::vm::{Label, LabelChange};
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::VmView;
use crate::wait;

/// Asks. Nothing is waited for: labels are so when the cluster says so.
pub(in crate::commands) async fn run(mut session: Session<'_>, label: Label) -> Result<ExitStatus, Failure> {
    let project = session.global.project.clone();
    let Label { name, changes, expected_uid, expected_revision, request_id } = label;
    let (set, remove) = sorted(changes)?;
    let Writing { write, effect } =
        Writing::new(request_id.as_deref(), expected_uid, expected_revision, wait::show(&project, &name));
    let question = v1::UpdateLabelsRequest { write: Some(write), project, name, set, remove };
    let answer = session
        .client
        .ask(&effect, question, |channel, question| async move { service(channel).update_labels(question).await })
        .await?;
    let vm = VmView::from(given(answer.vm, "VM")?);
    session.print(&vm, |_| render::vm::labelled(&vm))?;
    Ok(ExitStatus::Ok)
}

/// What to set and what to remove; one key is spoken of once.
fn sorted(changes: Vec<LabelChange>) -> Result<(BTreeMap<String, String>, Vec<String>), Failure> {
    let (mut set, mut remove) = (BTreeMap::new(), Vec::new());
    for change in changes {
        let (LabelChange::Set(key, _) | LabelChange::Remove(key)) = &change;
        if set.contains_key(key) || remove.contains(key) {
            return Err(Failure::usage(format!("the label {key:?} is given twice")).hint("say once what it shall be"));
        }
        match change {
            LabelChange::Set(key, value) => drop(set.insert(key, value)),
            LabelChange::Remove(key) => remove.push(key),
        }
    }
    Ok((set, remove))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use crate::args::{Command, vm::Verb};
    use clap::Parser as _;

    fn changes(words: &[&str]) -> Result<Vec<LabelChange>, String> {
        let words = ["berth", "vm", "label", "web-1"].iter().chain(words);
        match Args::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Vm(Verb::Label(label)) => Ok(label.changes),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_value_sets_a_label_and_a_hyphen_removes_one() {
        let (set, remove) = sorted(changes(&["app=web", "tier-", "empty=", "odd=a=b-"]).unwrap()).unwrap();
        let expected = [("app", "web"), ("empty", ""), ("odd", "a=b-")];
        assert_eq!(set, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(remove, ["tier"]);
    }

    #[test]
    fn what_is_neither_is_refused_and_so_is_a_label_given_twice() {
        for wrong in ["app", "=web"] {
            let said = changes(&[wrong]).unwrap_err();
            assert!(said.contains("is neither KEY=VALUE nor KEY-"), "{said}");
        }
        assert!(changes(&[]).is_err(), "nothing to do");
        for twice in [["a=1", "a=2"], ["a=1", "a-"], ["a-", "a-"]] {
            let failure = sorted(changes(&twice).unwrap()).unwrap_err();
            assert_eq!(
                (failure.status(), failure.to_string()),
                (ExitStatus::Usage, "the label \"a\" is given twice".into())
            );
        }
    }
}
