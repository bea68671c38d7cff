//! `berth cluster member replace`: a new controller takes the place of a dead one.

use berth_proto::v1;

use super::super::super::{Session, given};
use super::add::{announce, until_it_votes};
use super::newcomer::Preparation;
use super::{change, confirm, find, keep_endpoints, look, service};
use crate::args::cluster::Replace;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::view::cluster::MemberView;

/// Registers the new one, and waits until the leader has exchanged the votes.
pub(super) async fn run(mut session: Session<'_>, replace: Replace) -> Result<ExitStatus, Failure> {
    let Replace { dead, with, newcomer, no_wait, yes } = replace;
    let status = look(&mut session, v1::Consistency::Linearizable).await?;
    if dead == with {
        return Err(Failure::usage(format!(
            "the new member cannot be called {dead} as long as the old one is a member"
        ))
        .hint("give it another name; the names of members that were removed are free again"));
    }
    let prepared = Preparation::new(&with, &newcomer, &status.cluster)?;
    // A command that was interrupted may find the old one gone.
    if status.members.iter().all(|member| member.name != dead) && find(&status, &with).is_ok_and(|member| member.voter)
    {
        session.printer.note(&format!("{dead} is no member any more and {with} votes already"));
        return Ok(ExitStatus::Ok);
    }
    let gone = find(&status, &dead)?;
    let alive = if gone.reachable { ", although it answers" } else { "" };
    let what = format!(
        "{dead} (id {}) leaves the cluster for good{alive}, and {with} at {} takes its place",
        gone.id, newcomer.address
    );
    confirm(&mut session, &what, yes).await?;
    let question = v1::ReplaceMemberRequest { dead: gone.id, with: Some(prepared.request()) };
    let answer = session
        .client
        .ask(&change(), question, |channel, question| async move { service(channel).replace_member(question).await })
        .await?;
    let member = given(answer.member, "member")?;
    announce(&mut session, &prepared, &member)?;
    let member = if no_wait { member } else { until_it_votes(&mut session, &with, newcomer.waiting).await? };
    let member = MemberView::from(member);
    session.print(&member, |_| {
        if no_wait {
            format!("{with} takes the place of {dead} as soon as it has caught up\n")
        } else {
            format!("{with} votes, {dead} is no member any more\n")
        }
    })?;
    keep_endpoints(&mut session).await;
    Ok(ExitStatus::Ok)
}
