//! Waiting until a VM is as asked, by watching it. Whatever ends the waiting, the VM is not touched.

use std::time::Duration;

use berth_proto::v1;
use berth_proto::v1::vm_service_client::VmServiceClient;
use berth_proto::v1::watch_vms_event::Event;
use tokio::time::Instant;

use crate::client::{Client, Effect, LARGEST_ANSWER, Trouble};
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::progress::Progress;
use crate::view::VmView;

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Goal {
    /// Guest code runs.
    Running,
    /// It is down, or was never started.
    Stopped,
    /// This many restarts were carried out, and it runs.
    Restarted(u64),
    /// So many resets were carried out, and it runs.
    Reset(u64),
    /// Guest code is held.
    Paused,
    /// It is gone.
    Deleted,
}

/// How near the goal is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Judgement {
    Reached,
    NotYet(String),
    /// It will never be reached.
    Never(String),
}

/// A VM to wait for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// Its project.
    pub(crate) project: String,
    /// Its name.
    pub(crate) name: String,
    /// Its uid: another VM of the same name is not it.
    pub(crate) uid: String,
    /// The revision of the change whose effect is waited for; older pictures do not count.
    pub(crate) revision: u64,
}

/// Waits, and returns the VM as it was last seen; none if it is gone.
pub(crate) async fn wait(
    client: &mut Client,
    printer: &mut Printer,
    target: &Target,
    goal: Goal,
    at_most: Duration,
) -> Result<Option<VmView>, Failure> {
    let mut progress = Progress::new(printer);
    let mut last = None;
    let watching = watch(client, &mut progress, target, goal, &mut last);
    tokio::select! {
        outcome = tokio::time::timeout(at_most, watching) => match outcome {
            Ok(Ok(())) => {
                drop(progress);
                Ok(last)
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(too_late(target, goal, last.as_ref(), progress.last(), at_most)),
        },
        _ = tokio::signal::ctrl_c() => Err(interrupted(target, goal)),
    }
}

async fn watch(
    client: &mut Client,
    progress: &mut Progress<'_>,
    target: &Target,
    goal: Goal,
    last: &mut Option<VmView>,
) -> Result<(), Failure> {
    loop {
        let question = v1::WatchVmsRequest {
            project: target.project.clone(),
            name: target.name.clone(),
            consistency: v1::Consistency::Linearizable.into(),
            ..v1::WatchVmsRequest::default()
        };
        let mut stream = client
            .ask(&Effect::Read, question, |channel, question| async move {
                VmServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER).watch_vms(question).await
            })
            .await?;
        let began = Instant::now();
        let mut listed = false;
        loop {
            match stream.message().await {
                Ok(Some(event)) => {
                    if let Some(judgement) = judge_event(target, goal, event, &mut listed, last) {
                        match judgement {
                            Judgement::Reached => return Ok(()),
                            Judgement::NotYet(text) => progress.say(text),
                            Judgement::Never(why) => return Err(Failure::refused(why).code("BE-2002")),
                        }
                    }
                }
                Ok(None) => break,
                Err(status) => {
                    let trouble = Trouble::of_status(&status);
                    progress.say(format!(
                        "{} ended the watch ({}); asking another controller",
                        client.endpoint(),
                        trouble.in_words()
                    ));
                    break;
                }
            }
        }
        client.turn();
        // A controller that ends every watch at once must not be asked without pause.
        tokio::time::sleep_until(began + Duration::from_millis(500)).await;
    }
}

/// What an event says of the goal; nothing if it is about something else.
fn judge_event(
    target: &Target,
    goal: Goal,
    event: v1::WatchVmsEvent,
    listed: &mut bool,
    last: &mut Option<VmView>,
) -> Option<Judgement> {
    let v1::WatchVmsEvent { revision, event } = event;
    match event? {
        Event::Added(vm) | Event::Modified(vm) => {
            let vm = VmView::from(vm);
            if vm.metadata.uid != target.uid || vm.metadata.revision < target.revision {
                return None;
            }
            let judgement = judge(goal, &vm);
            *listed = true;
            *last = Some(vm);
            Some(judgement)
        }
        Event::Deleted(vm) => (VmView::from(vm).metadata.uid == target.uid).then(|| gone(target, goal, last)),
        Event::Bookmark(v1::Bookmark { initial_list_done }) => {
            (initial_list_done && !*listed && revision >= target.revision).then(|| gone(target, goal, last))
        }
    }
}

fn gone(target: &Target, goal: Goal, last: &mut Option<VmView>) -> Judgement {
    *last = None;
    match goal {
        Goal::Deleted => Judgement::Reached,
        Goal::Running | Goal::Stopped | Goal::Restarted(_) | Goal::Reset(_) | Goal::Paused => {
            Judgement::Never(format!("VM {}/{} was deleted while it was waited for", target.project, target.name))
        }
    }
}

/// How near the goal this VM is.
fn judge(goal: Goal, vm: &VmView) -> Judgement {
    let status = &vm.status;
    let restarts = status.observed.as_ref().map_or(0, |observed| observed.restart_count);
    let reached = match goal {
        Goal::Running => status.phase == "Running",
        Goal::Restarted(count) => status.phase == "Running" && restarts >= count,
        Goal::Reset(count) => {
            status.phase == "Running" && status.observed.as_ref().is_some_and(|observed| observed.reset_count >= count)
        }
        Goal::Paused => status.phase == "Paused",
        // What waits for a host and shall not run does not run anywhere.
        Goal::Stopped => {
            let rests = vm.spec.run_strategy == "Halted" || status.stopped;
            status.phase == "Stopped" || (status.phase == "Pending" && rests)
        }
        Goal::Deleted => false,
    };
    if reached {
        return Judgement::Reached;
    }
    let on = if status.host.is_empty() { String::new() } else { format!(" on {}", status.host) };
    let why = if status.message.is_empty() { String::new() } else { format!(": {}", status.message) };
    Judgement::NotYet(format!("{} is {}{on}{why}", vm.metadata.name, status.phase))
}

/// The command that shows a VM.
pub(crate) fn show(project: &str, name: &str) -> String {
    if project.is_empty() || project == "default" {
        format!("berth vm show {name}")
    } else {
        format!("berth --project {project} vm show {name}")
    }
}

fn in_words(goal: Goal) -> &'static str {
    match goal {
        Goal::Running => "runs",
        Goal::Stopped => "is stopped",
        Goal::Restarted(_) => "has restarted",
        Goal::Reset(_) => "was reset",
        Goal::Paused => "is paused",
        Goal::Deleted => "is gone",
    }
}

fn too_late(target: &Target, goal: Goal, last: Option<&VmView>, said: &str, at_most: Duration) -> Failure {
    let Target { project, name, .. } = target;
    let mut failure = Failure::refused(format!(
        "the request was carried out, but {} s later it is not yet so that VM {project}/{name} {}",
        at_most.as_secs_f32(),
        in_words(goal)
    ));
    if !said.is_empty() {
        failure = failure.note(format!("last seen: {said}"));
    }
    if let Some(unplaced) = last.and_then(|vm| vm.status.unplaced.as_ref()) {
        failure = failure.code("BE-3002");
        for refusal in &unplaced.refusals {
            failure = failure.note(format!("{}: {}", refusal.host, refusal.why));
        }
    }
    failure.hint(format!("the cluster goes on trying; see '{}'", show(project, name)))
}

fn interrupted(target: &Target, goal: Goal) -> Failure {
    let Target { project, name, .. } = target;
    Failure::new(
        ExitStatus::Interrupted,
        format!("stopped waiting until VM {project}/{name} {}; what was asked stands and goes on", in_words(goal)),
    )
    .hint(format!("see '{}'", show(project, name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use insta::assert_snapshot;

    fn vm(uid: &str, revision: u64, phase: v1::VmPhase, restarts: u64) -> v1::Vm {
        v1::Vm {
            meta: Some(v1::Meta { uid: uid.into(), name: "web-1".into(), revision, ..v1::Meta::default() }),
            status: Some(v1::VmStatus {
                phase: phase.into(),
                host_name: "h1".into(),
                message: "fetching".into(),
                ..v1::VmStatus::default()
            }),
            observed: Some(v1::Observed { restart_count: restarts, ..v1::Observed::default() }),
            ..v1::Vm::default()
        }
    }

    fn target() -> Target {
        Target { project: "default".into(), name: "web-1".into(), uid: "u1".into(), revision: 10 }
    }

    fn see(goal: Goal, events: Vec<(u64, Event)>) -> Vec<Option<Judgement>> {
        let (mut listed, mut last) = (false, None);
        events
            .into_iter()
            .map(|(revision, event)| {
                let event = v1::WatchVmsEvent { revision, event: Some(event) };
                judge_event(&target(), goal, event, &mut listed, &mut last)
            })
            .collect()
    }

    fn end_of_list() -> Event {
        Event::Bookmark(v1::Bookmark { initial_list_done: true })
    }

    #[test]
    fn a_picture_older_than_the_change_is_passed_over() {
        let seen = see(
            Goal::Running,
            vec![
                (9, Event::Added(vm("u1", 9, v1::VmPhase::Running, 0))),
                (11, Event::Modified(vm("u1", 11, v1::VmPhase::Starting, 0))),
                (12, Event::Modified(vm("u1", 12, v1::VmPhase::Running, 0))),
            ],
        );
        let not_yet = Judgement::NotYet("web-1 is Starting on h1: fetching".into());
        assert_eq!(seen, [None, Some(not_yet), Some(Judgement::Reached)]);
    }

    #[test]
    fn a_restart_is_done_when_the_host_has_counted_it() {
        let seen = see(
            Goal::Restarted(2),
            vec![
                (11, Event::Added(vm("u1", 11, v1::VmPhase::Running, 1))),
                (12, Event::Modified(vm("u1", 12, v1::VmPhase::Running, 2))),
            ],
        );
        assert!(matches!(seen[0], Some(Judgement::NotYet(_))));
        assert_eq!(seen[1], Some(Judgement::Reached));
    }

    #[test]
    fn gone_is_what_the_list_lacks_or_an_event_says_but_not_another_vm_of_that_name() {
        let other = Event::Added(vm("u2", 12, v1::VmPhase::Running, 0));
        assert_eq!(see(Goal::Deleted, vec![(12, other), (12, end_of_list())]), [None, Some(Judgement::Reached)]);
        assert_eq!(see(Goal::Deleted, vec![(9, end_of_list())]), [None], "the list is older than the deletion");
        let still = Event::Added(vm("u1", 11, v1::VmPhase::Deleting, 0));
        let seen = see(Goal::Deleted, vec![(11, still), (11, end_of_list())]);
        assert!(matches!(seen.as_slice(), [Some(Judgement::NotYet(_)), None]));
        let deleted = Event::Deleted(vm("u1", 12, v1::VmPhase::Deleting, 0));
        assert_eq!(see(Goal::Deleted, vec![(12, deleted.clone())]), [Some(Judgement::Reached)]);
        assert!(matches!(see(Goal::Running, vec![(12, deleted)])[0], Some(Judgement::Never(_))));
    }

    #[test]
    fn what_ends_a_wait_says_that_the_request_stands() {
        let mut waiting = vm("u1", 11, v1::VmPhase::Pending, 0);
        waiting.unplaced = Some(v1::Unplaced {
            refusals: vec![v1::HostRefusal { host: "h1".into(), why: "has 1 free thread, 2 are needed".into() }],
            ..v1::Unplaced::default()
        });
        let waiting = VmView::from(waiting);
        let said = "web-1 is Pending";
        let text = too_late(&target(), Goal::Running, Some(&waiting), said, Duration::from_secs(30)).render(false);
        assert_snapshot!(text, @r"
        error[BE-3002]: the request was carried out, but 30 s later it is not yet so that VM default/web-1 runs
          last seen: web-1 is Pending
          h1: has 1 free thread, 2 are needed
        hint: the cluster goes on trying; see 'berth vm show web-1'
        ");
        let failure = interrupted(&target(), Goal::Deleted);
        assert_eq!(failure.status().number(), 130);
        assert_snapshot!(failure.render(false), @r"
        error: stopped waiting until VM default/web-1 is gone; what was asked stands and goes on
        hint: see 'berth vm show web-1'
        ");
    }
}
