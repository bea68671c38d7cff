//! `berth cluster`.

mod backup;
mod endpoints;
mod member;
mod status;
mod transfer;

use berth_proto::v1;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;

use super::Session;
use crate::args::cluster::Verb;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;

/// Carries out a verb.
pub(super) async fn run(global: crate::args::Global, printer: &mut Printer, verb: Verb) -> Result<ExitStatus, Failure> {
    match verb {
        // A file is checked without a cluster.
        Verb::Backup { file, verify: true } => backup::verify(&global, printer, &file),
        Verb::Backup { file, verify: false } => backup::run(Session::open(global, printer)?, file).await,
        Verb::Status => status::run(Session::open(global, printer)?).await,
        Verb::Member(verb) => Box::pin(member::run(Session::open(global, printer)?, verb)).await,
        Verb::TransferLeader { name } => transfer::run(Session::open(global, printer)?, name).await,
    }
}

/// How the cluster is. Stale is what the first member that answers has at hand.
async fn look(session: &mut Session<'_>, consistency: v1::Consistency) -> Result<v1::ClusterStatus, Failure> {
    let question = v1::GetStatusRequest { consistency: consistency.into() };
    session
        .client
        .ask(&Effect::Read, question, |channel, question| async move {
            ClusterServiceClient::new(channel).get_status(question).await
        })
        .await
}

/// The member of this name, or a refusal that names those that are there.
fn find<'a>(status: &'a v1::ClusterStatus, name: &str) -> Result<&'a v1::Member, Failure> {
    status.members.iter().find(|member| member.name == name).ok_or_else(|| {
        let known: Vec<_> = status.members.iter().map(|member| member.name.as_str()).collect();
        Failure::refused(format!("the cluster has no member {name:?}"))
            .code("BE-5011")
            .hint(format!("its members are {}", known.join(", ")))
    })
}

/// How a change of the membership is sent: it means the same however often it is sent, so it needs no id.
fn change() -> Effect {
    Effect::Repeatable { check: "berth cluster member list".into() }
}
