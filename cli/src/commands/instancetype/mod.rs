//! `berth instancetype`.

mod list;

use berth_model::Bytes;
use berth_proto::v1;
use berth_proto::v1::instance_type_service_client::InstanceTypeServiceClient;
use tonic::transport::Channel;

use super::{Session, Writing, given};
use crate::args::Output;
use crate::args::catalog::{Forget, InstanceTypeVerb};
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::InstanceTypeView;

fn service(channel: Channel) -> InstanceTypeServiceClient<Channel> {
    InstanceTypeServiceClient::new(channel)
}

/// Carries out a verb.
pub(super) async fn run(session: Session<'_>, verb: InstanceTypeVerb) -> Result<ExitStatus, Failure> {
    match verb {
        InstanceTypeVerb::List => list::run(session).await,
        InstanceTypeVerb::Show { name } => show(session, name).await,
        InstanceTypeVerb::Create { name, cpus, memory, request_id } => {
            create(session, name, cpus, memory, request_id).await
        }
        InstanceTypeVerb::Delete(forget) => delete(session, forget).await,
    }
}

async fn show(mut session: Session<'_>, name: String) -> Result<ExitStatus, Failure> {
    let question = v1::GetInstanceTypeRequest { consistency: session.consistency(), name };
    let answer =
        session
            .client
            .ask(&Effect::Read, question, |channel, question| async move {
                service(channel).get_instance_type(question).await
            })
            .await?;
    let held = InstanceTypeView::from(given(answer.instance_type, "instance type")?);
    session.print(&held, |style| render::instancetype::show(&held, style))?;
    Ok(ExitStatus::Ok)
}

async fn create(
    mut session: Session<'_>,
    name: String,
    cpus: u32,
    memory: Bytes,
    request_id: Option<String>,
) -> Result<ExitStatus, Failure> {
    let check = format!("berth instancetype show {name}");
    let Writing { write, effect } = Writing::new(request_id.as_deref(), None, None, check);
    let question = v1::CreateInstanceTypeRequest { write: Some(write), name, cpus, memory_bytes: memory.0 };
    let answer = session
        .client
        .ask(
            &effect,
            question,
            |channel, question| async move { service(channel).create_instance_type(question).await },
        )
        .await?;
    let held = InstanceTypeView::from(given(answer.instance_type, "instance type")?);
    session.print(&held, |_| {
        format!("{} is an instance type now: {} CPUs, {}\n", held.metadata.name, held.spec.cpus, held.spec.memory)
    })?;
    Ok(ExitStatus::Ok)
}

async fn delete(mut session: Session<'_>, forget: Forget) -> Result<ExitStatus, Failure> {
    let Forget { name, request_id } = forget;
    let check = format!("berth instancetype show {name}");
    let Writing { write, effect } = Writing::new(request_id.as_deref(), None, None, check);
    let question = v1::DeleteInstanceTypeRequest { write: Some(write), name: name.clone() };
    session
        .client
        .ask(
            &effect,
            question,
            |channel, question| async move { service(channel).delete_instance_type(question).await },
        )
        .await?;
    if session.global.output == Output::Table {
        session.printer.data(&format!("{name} is no longer an instance type; VMs made with it stay as they are\n"))?;
    }
    Ok(ExitStatus::Ok)
}
