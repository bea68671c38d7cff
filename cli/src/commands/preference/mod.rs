//! `berth preference`.

use berth_proto::v1;
use berth_proto::v1::preference_service_client::PreferenceServiceClient;
use tonic::transport::Channel;

use super::{Session, Writing, given};
use crate::args::Output;
use crate::args::catalog::{Forget, PreferenceVerb};
use crate::args::placement::Wishes;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::{ListView, PreferenceView};

fn service(channel: Channel) -> PreferenceServiceClient<Channel> {
    PreferenceServiceClient::new(channel)
}

/// Carries out a verb.
pub(super) async fn run(session: Session<'_>, verb: PreferenceVerb) -> Result<ExitStatus, Failure> {
    match verb {
        PreferenceVerb::List => list(session).await,
        PreferenceVerb::Show { name } => show(session, name).await,
        PreferenceVerb::Create { name, wishes, request_id } => create(session, name, &wishes, request_id).await,
        PreferenceVerb::Delete(forget) => delete(session, forget).await,
    }
}

async fn list(mut session: Session<'_>) -> Result<ExitStatus, Failure> {
    let question = v1::ListPreferencesRequest { consistency: session.consistency() };
    let answer =
        session
            .client
            .ask(&Effect::Read, question, |channel, question| async move {
                service(channel).list_preferences(question).await
            })
            .await?;
    let held = answer.preferences.into_iter().map(PreferenceView::from).collect();
    let list = ListView::new("Preference", answer.revision, held);
    session.print(&list, |style| render::preference::list(&list.items, style))?;
    Ok(ExitStatus::Ok)
}

async fn show(mut session: Session<'_>, name: String) -> Result<ExitStatus, Failure> {
    let question = v1::GetPreferenceRequest { consistency: session.consistency(), name };
    let answer = session
        .client
        .ask(
            &Effect::Read,
            question,
            |channel, question| async move { service(channel).get_preference(question).await },
        )
        .await?;
    let held = PreferenceView::from(given(answer.preference, "preference")?);
    session.print(&held, |style| render::preference::show(&held, style))?;
    Ok(ExitStatus::Ok)
}

async fn create(
    mut session: Session<'_>,
    name: String,
    wishes: &Wishes,
    request_id: Option<String>,
) -> Result<ExitStatus, Failure> {
    let check = format!("berth preference show {name}");
    let Writing { write, effect } = Writing::new(request_id.as_deref(), None, None, check);
    let tuning = Some((&wishes.tuning()).into());
    let question = v1::CreatePreferenceRequest { write: Some(write), name, tuning };
    let answer = session
        .client
        .ask(&effect, question, |channel, question| async move { service(channel).create_preference(question).await })
        .await?;
    let held = PreferenceView::from(given(answer.preference, "preference")?);
    session.print(&held, |_| format!("{} is a preference now\n", held.metadata.name))?;
    Ok(ExitStatus::Ok)
}

async fn delete(mut session: Session<'_>, forget: Forget) -> Result<ExitStatus, Failure> {
    let Forget { name, request_id } = forget;
    let check = format!("berth preference show {name}");
    let Writing { write, effect } = Writing::new(request_id.as_deref(), None, None, check);
    let question = v1::DeletePreferenceRequest { write: Some(write), name: name.clone() };
    session
        .client
        .ask(&effect, question, |channel, question| async move { service(channel).delete_preference(question).await })
        .await?;
    if session.global.output == Output::Table {
        session.printer.data(&format!("{name} is no longer a preference; VMs made with it stay as they are\n"))?;
    }
    Ok(ExitStatus::Ok)
}
