//! `berth capacity` and `berth proposals`.

use berth_proto::v1;
use berth_proto::v1::placement_service_client::PlacementServiceClient;
use tonic::transport::Channel;

use super::Session;
use crate::args::Output;
use crate::args::catalog::Capacity;
use crate::client::{Effect, LARGEST_ANSWER};
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::ListView;
use crate::view::room::{CapacityView, ProposalView, SurvivalView};

pub(super) fn service(channel: Channel) -> PlacementServiceClient<Channel> {
    PlacementServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER)
}

/// How many more fit, or whether the cluster survives the loss of any one host.
pub(super) async fn capacity(mut session: Session<'_>, asked: Capacity) -> Result<ExitStatus, Failure> {
    let Capacity { survives, host, instancetype, cpus, memory, image, labels, placement } = asked;
    if survives && !(placement.fields().is_empty() && labels.is_empty()) {
        return Err(Failure::usage("whether the cluster survives is asked about the VMs that are there")
            .hint("leave out what describes other VMs"));
    }
    if survives {
        return survival(session, host.unwrap_or_default()).await;
    }
    let mut spec = v1::VmSpec {
        instance_type: instancetype.unwrap_or_default(),
        cpus,
        memory_bytes: memory.map(|memory| memory.0),
        image: image.unwrap_or_default(),
        ..v1::VmSpec::default()
    };
    placement.put_into(&mut spec);
    let question = v1::GetCapacityRequest {
        consistency: session.consistency(),
        spec: Some(spec),
        project: session.global.project.clone(),
        labels: labels.into_iter().collect(),
    };
    let answer = session
        .client
        .ask(&Effect::Read, question, |channel, question| async move { service(channel).get_capacity(question).await })
        .await?;
    let view = CapacityView::from(answer);
    session.print(&view, |style| render::room::capacity(&view, style))?;
    Ok(ExitStatus::Ok)
}

async fn survival(mut session: Session<'_>, host: String) -> Result<ExitStatus, Failure> {
    let question = v1::GetSurvivalRequest { consistency: session.consistency(), host };
    let answer = session
        .client
        .ask(&Effect::Read, question, |channel, question| async move { service(channel).get_survival(question).await })
        .await?;
    let view = SurvivalView::from(answer);
    session.print(&view, |style| render::room::survival(&view, style))?;
    Ok(if view.survives { ExitStatus::Ok } else { ExitStatus::Refused })
}

/// Moves that would help.
pub(super) async fn proposals(mut session: Session<'_>) -> Result<ExitStatus, Failure> {
    let question = v1::ListProposalsRequest { consistency: session.consistency() };
    let answer = session
        .client
        .ask(
            &Effect::Read,
            question,
            |channel, question| async move { service(channel).list_proposals(question).await },
        )
        .await?;
    let moves: Vec<_> = answer.proposals.into_iter().map(ProposalView::from).collect();
    if moves.is_empty() && session.global.output == Output::Table {
        session.printer.note("no move is known that would make the cluster better");
    }
    let list = ListView::new("Proposal", answer.revision, moves);
    session.print(&list, |style| render::room::proposals(&list.items, style))?;
    Ok(ExitStatus::Ok)
}
