//! `berth cluster member`.

mod add;
mod newcomer;
mod remove;
mod replace;

use std::io::IsTerminal;

use berth_proto::v1;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::super::{Session, given};
use super::{change, endpoints, find, look};
use crate::args::cluster::MemberVerb;
use crate::client::LARGEST_ANSWER;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::settings;
use crate::view::ListView;
use crate::view::cluster::MemberView;

/// Carries out a verb.
pub(super) async fn run(session: Session<'_>, verb: MemberVerb) -> Result<ExitStatus, Failure> {
    match verb {
        MemberVerb::List => list(session).await,
        MemberVerb::Add(add) => add::run(session, add).await,
        MemberVerb::Promote { name, waiting } => add::promote(session, &name, waiting).await,
        MemberVerb::Update { name, address, domain } => update(session, &name, address, domain).await,
        MemberVerb::Remove(remove) => remove::run(session, remove).await,
        MemberVerb::Replace(replace) => replace::run(session, replace).await,
    }
}

fn service(channel: tonic::transport::Channel) -> ClusterServiceClient<tonic::transport::Channel> {
    ClusterServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER)
}

async fn list(mut session: Session<'_>) -> Result<ExitStatus, Failure> {
    let consistency = v1::Consistency::try_from(session.consistency()).unwrap_or_default();
    let status = look(&mut session, consistency).await?;
    let members: Vec<MemberView> = status.members.into_iter().map(Into::into).collect();
    let listed = ListView::new("Member", status.revision, members);
    session.print(&listed, |style| render::cluster::members(&listed.items, style))?;
    Ok(ExitStatus::Ok)
}

async fn update(
    mut session: Session<'_>,
    name: &str,
    address: Option<String>,
    domain: Option<String>,
) -> Result<ExitStatus, Failure> {
    let status = look(&mut session, v1::Consistency::Linearizable).await?;
    let id = find(&status, name)?.id;
    let moved = address.map(|address| newcomer::seat(id, name, &address, "")).transpose()?;
    let (api_address, raft_address) = moved.map(|seat| (seat.api, seat.raft)).unwrap_or_default();
    let question = v1::UpdateMemberRequest { id, api_address, raft_address, domain };
    let answer = session
        .client
        .ask(&change(), question, |channel, question| async move { service(channel).update_member(question).await })
        .await?;
    let member = MemberView::from(given(answer.member, "member")?);
    session.print(&member, |_| format!("{name} is at {}\n", member.api_address))?;
    keep_endpoints(&mut session).await;
    Ok(ExitStatus::Ok)
}

/// Brings the configuration that is in use up to date with the membership, if it is ours to keep.
async fn keep_endpoints(session: &mut Session<'_>) {
    let Ok(path) = settings::path(&session.global) else { return };
    let Ok(status) = look(session, v1::Consistency::Linearizable).await else { return };
    let voters: Vec<_> = status.members.into_iter().filter(|member| member.voter).collect();
    if let Some(said) = endpoints::keep(&path, &voters) {
        session.printer.note(&said);
    }
}

/// Has a person confirm what cannot be taken back. Without a terminal it takes `--yes`.
async fn confirm(session: &mut Session<'_>, what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let unasked = || {
        Failure::usage(format!("{what}; this is not done without confirmation"))
            .hint("add --yes if that is what you want")
    };
    if !std::io::stdin().is_terminal() {
        return Err(unasked());
    }
    session.printer.note(&format!("{what}. Write yes to go on:"));
    let mut line = String::new();
    BufReader::new(tokio::io::stdin()).read_line(&mut line).await?;
    if line.trim() == "yes" { Ok(()) } else { Err(unasked()) }
}
