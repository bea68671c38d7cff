//! `berth cluster member add` and `promote`: from a name to a vote.

use std::time::Duration;

use berth_proto::v1;
use tokio::time::Instant;

use super::super::super::{Session, given};
use super::newcomer::Preparation;
use super::{change, find, keep_endpoints, look, service};
use crate::args::cluster::{Add, Patience};
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::view::cluster::MemberView;

/// How often to look how far a learner is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Registers, writes the bundle, waits and promotes.
pub(super) async fn run(mut session: Session<'_>, add: Add) -> Result<ExitStatus, Failure> {
    let status = look(&mut session, v1::Consistency::Linearizable).await?;
    let prepared = Preparation::new(&add.name, &add.newcomer, &status.cluster)?;
    let answer =
        session
            .client
            .ask(&change(), prepared.request(), |channel, question| async move {
                service(channel).add_member(question).await
            })
            .await?;
    let member = given(answer.member, "member")?;
    announce(&mut session, &prepared, &member)?;
    if add.no_wait {
        let member = MemberView::from(member);
        session.print(&member, |_| format!("{} is registered with id {} and learns\n", member.name, member.id))?;
        return Ok(ExitStatus::Ok);
    }
    promote(session, &add.name, add.newcomer.waiting).await
}

/// Writes the bundle of a member that was just registered, and says what is to be done with it.
pub(super) fn announce(session: &mut Session<'_>, prepared: &Preparation, member: &v1::Member) -> Result<(), Failure> {
    let has_key = prepared.write(member.id)?;
    let (file, name) = (prepared.out.display(), prepared.out.file_name().unwrap_or_default().display());
    let key = if has_key { "" } else { " --sealing-key FILE" };
    session.printer.note(&format!(
        "{} is registered with id {}; its bundle is {file}, which holds its keys",
        member.name, member.id
    ));
    session.printer.note(&format!(
        "carry it to {}, and there: berth-controller join {name}{key}, then start berth-controller",
        prepared.seat.address()
    ));
    Ok(())
}

/// Waits until it has caught up and gives it its vote.
pub(super) async fn promote(mut session: Session<'_>, name: &str, waiting: Patience) -> Result<ExitStatus, Failure> {
    let end = Instant::now() + waiting.wait_timeout;
    let member = loop {
        let id = wait_for(&mut session, name, end, |member| member.voter || distance(member).is_none()).await?.id;
        let asked = session
            .client
            .ask(&change(), v1::PromoteMemberRequest { id }, |channel, question| async move {
                service(channel).promote_member(question).await
            })
            .await;
        match asked {
            Ok(answer) => break given(answer.member, "member")?,
            // It fell back meanwhile, or another change is being made.
            Err(failure) if matches!(failure.code_text(), Some("BE-5012" | "BE-5014")) && Instant::now() < end => {
                session.printer.note(&failure.to_string());
            }
            Err(failure) => return Err(failure),
        }
    };
    let member = MemberView::from(member);
    session.print(&member, |_| format!("{name} votes\n"))?;
    keep_endpoints(&mut session).await;
    Ok(ExitStatus::Ok)
}

/// Waits until the leader has given a member its vote.
pub(super) async fn until_it_votes(
    session: &mut Session<'_>,
    name: &str,
    waiting: Patience,
) -> Result<v1::Member, Failure> {
    wait_for(session, name, Instant::now() + waiting.wait_timeout, |member| member.voter).await
}

/// Waits until a member is as wanted, and says what is waited for meanwhile.
async fn wait_for(
    session: &mut Session<'_>,
    name: &str,
    end: Instant,
    wanted: impl Fn(&v1::Member) -> bool,
) -> Result<v1::Member, Failure> {
    let later = format!(
        "it stays registered; see 'berth cluster status', and when it runs: berth cluster member promote {name}"
    );
    let mut last = String::new();
    loop {
        let status = look(session, v1::Consistency::Stale).await?;
        let member = find(&status, name)?;
        if wanted(member) {
            return Ok(member.clone());
        }
        let said = distance(member).unwrap_or_else(|| format!("{name} has caught up; its vote comes"));
        if Instant::now() >= end {
            return Err(Failure::refused(format!("{name} does not vote yet: {said}")).code("BE-5012").hint(later));
        }
        if said != last {
            session.printer.note(&said);
            last = said;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = tokio::signal::ctrl_c() => {
                let what = format!("interrupted; {name} is registered and does not vote yet");
                return Err(Failure::new(ExitStatus::Interrupted, what).hint(later));
            }
        }
    }
}

/// Entries that may be lacking when the vote is asked for: what comes in between is not worth a wait.
const NEAR: u64 = 1000;

/// What still keeps a member from voting, in words; none if nothing does.
fn distance(member: &v1::Member) -> Option<String> {
    let name = &member.name;
    if let Some(v1::SnapshotProgress { sent_bytes, total_bytes }) = member.snapshot {
        return Some(format!("{name} receives a snapshot, {} of {} MiB", sent_bytes >> 20, total_bytes >> 20));
    }
    match member.lag {
        _ if member.voter => None,
        _ if !member.reachable => Some(format!("waiting until {name} runs at {}", member.api_address)),
        Some(lag) if lag <= NEAR => None,
        Some(lag) => Some(format!("{name} catches up, {lag} entries to go")),
        None => Some(format!("waiting until the leader hears of {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_what_is_waited_for() {
        let away = v1::Member { name: "c2".into(), api_address: "10.0.0.2:7440".into(), ..v1::Member::default() };
        assert_eq!(distance(&away).unwrap(), "waiting until c2 runs at 10.0.0.2:7440");
        let here = v1::Member { reachable: true, ..away.clone() };
        assert_eq!(distance(&here).unwrap(), "waiting until the leader hears of c2");
        let far = v1::Member { lag: Some(5000), ..here.clone() };
        assert_eq!(distance(&far).unwrap(), "c2 catches up, 5000 entries to go");
        let snapshot = Some(v1::SnapshotProgress { sent_bytes: 3 << 20, total_bytes: 130 << 20 });
        assert_eq!(distance(&v1::Member { snapshot, ..far }).unwrap(), "c2 receives a snapshot, 3 of 130 MiB");
        assert_eq!(distance(&v1::Member { lag: Some(3), ..here }), None);
        assert_eq!(distance(&v1::Member { voter: true, ..away }), None);
    }
}
