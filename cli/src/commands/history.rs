//! `berth history`, and `berth vm show --revision`.

use berth_proto::v1;
use berth_proto::v1::get_at_revision_response::Object;
use berth_proto::v1::history_service_client::HistoryServiceClient;
use tonic::transport::Channel;

use super::{Session, given};
use crate::args::Past;
use crate::client::{Effect, LARGEST_ANSWER};
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::{ChangeView, HistoryView, HostView, ImageView, InstanceTypeView, PreferenceView, VmView};

fn service(channel: Channel) -> HistoryServiceClient<Channel> {
    HistoryServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER)
}

/// The changes of one object, or the object as it was.
pub(super) async fn of(session: Session<'_>, kind: v1::ObjectKind, past: Past) -> Result<ExitStatus, Failure> {
    let Past { name, revision, limit } = past;
    match revision {
        Some(revision) => at(session, kind, name, revision).await,
        None => {
            let question = v1::ListHistoryRequest {
                consistency: session.consistency(),
                kind: kind.into(),
                project: session.global.project.clone(),
                name,
                limit,
                ..v1::ListHistoryRequest::default()
            };
            print_changes(session, question).await
        }
    }
}

/// The changes of everything.
pub(super) async fn list(
    session: Session<'_>,
    since: Option<u64>,
    actor: String,
    limit: u32,
) -> Result<ExitStatus, Failure> {
    let consistency = session.consistency();
    let question = v1::ListHistoryRequest {
        consistency,
        since_revision: since,
        actor,
        limit,
        ..v1::ListHistoryRequest::default()
    };
    print_changes(session, question).await
}

async fn print_changes(mut session: Session<'_>, question: v1::ListHistoryRequest) -> Result<ExitStatus, Failure> {
    let answer = session
        .client
        .ask(&Effect::Read, question, |channel, question| async move { service(channel).list_history(question).await })
        .await?;
    let history = HistoryView::from(answer);
    if history.items.is_empty() {
        session.printer.note(&format!("no change is known since revision {}", history.oldest_revision));
    }
    session.print(&history, |style| render::history::list(&history, style))?;
    Ok(ExitStatus::Ok)
}

/// One object as it was.
pub(super) async fn at(
    mut session: Session<'_>,
    kind: v1::ObjectKind,
    name: String,
    revision: u64,
) -> Result<ExitStatus, Failure> {
    let question = v1::GetAtRevisionRequest {
        consistency: session.consistency(),
        kind: kind.into(),
        project: session.global.project.clone(),
        name,
        at_revision: revision,
    };
    let answer =
        session
            .client
            .ask(&Effect::Read, question, |channel, question| async move {
                service(channel).get_at_revision(question).await
            })
            .await?;
    let around = [("made so by", answer.by), ("changed by", answer.ended)];
    for (what, record) in around {
        if let Some(record) = record {
            let change = ChangeView::from(record);
            session.printer.note(&format!("{what} {}", render::history::sentence(&change)));
        }
    }
    match given(answer.object, "object")? {
        Object::Vm(vm) => {
            let vm = VmView::from(vm);
            session.print(&vm, |style| render::vm::show(&vm, style))?;
        }
        Object::Host(host) => {
            let host = HostView::from(host);
            session.print(&host, |style| render::host::show(&host, style))?;
        }
        Object::Image(image) => {
            let image = ImageView::from(image);
            session.print(&image, |style| render::image::show(&image, style))?;
        }
        Object::InstanceType(held) => {
            let held = [InstanceTypeView::from(held)];
            session.print(&held, |style| render::instancetype::list(&held, style))?;
        }
        Object::Preference(held) => {
            let held = PreferenceView::from(held);
            session.print(&held, |style| render::preference::show(&held, style))?;
        }
    }
    Ok(ExitStatus::Ok)
}
