//! How requests find their way, against servers whose answers are scripted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use berth_pki::{Authority, Role};
use berth_proto::status::to_status;
use berth_proto::v1::vm_service_client::VmServiceClient;
use berth_proto::v1::vm_service_server::{VmService, VmServiceServer};
use tonic::Code;
use tonic::service::Routes;

use super::testing::{authority, client, credentials, nobody, operator};
use super::*;
use crate::exit::ExitStatus;

/// What a server does with one request.
enum Act {
    Answer,
    Fail(Status),
    /// Never answers.
    Hang,
}

/// A controller whose answers are written down before.
#[derive(Clone, Default)]
struct Scripted {
    acts: Arc<Mutex<VecDeque<Act>>>,
    /// The request ids that arrived.
    seen: Arc<Mutex<Vec<String>>>,
}

type Events = tokio_stream::Pending<Result<v1::WatchVmsEvent, Status>>;

#[tonic::async_trait]
impl VmService for Scripted {
    type WatchVmsStream = Events;

    async fn start_vm(&self, request: Request<v1::StartVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        let request_id = request.into_inner().write.unwrap_or_default().request_id;
        self.seen.lock().unwrap().push(request_id.clone());
        let act = self.acts.lock().unwrap().pop_front();
        match act {
            None | Some(Act::Answer) => Ok(Response::new(v1::VmAnswer { request_id, ..v1::VmAnswer::default() })),
            Some(Act::Fail(status)) => Err(status),
            Some(Act::Hang) => std::future::pending().await,
        }
    }

    async fn create_vm(&self, _: Request<v1::CreateVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
    async fn get_vm(&self, _: Request<v1::GetVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
    async fn list_vms(&self, _: Request<v1::ListVmsRequest>) -> Result<Response<v1::ListVmsResponse>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
    async fn watch_vms(&self, _: Request<v1::WatchVmsRequest>) -> Result<Response<Events>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
    async fn stop_vm(&self, _: Request<v1::StopVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
    async fn reset_vm(&self, _: Request<v1::ResetVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
    async fn pause_vm(&self, _: Request<v1::PauseVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
    async fn resume_vm(&self, _: Request<v1::ResumeVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
    async fn restart_vm(&self, _: Request<v1::RestartVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
    async fn update_labels(&self, _: Request<v1::UpdateLabelsRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
    async fn update_vm(&self, _: Request<v1::UpdateVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
    async fn explain_vm(&self, _: Request<v1::ExplainVmRequest>) -> Result<Response<v1::ExplainVmResponse>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
    async fn delete_vm(&self, _: Request<v1::DeleteVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        Err(Status::unimplemented("this server is only asked to start VMs"))
    }
}

/// Starts it and returns its address.
async fn serve(authority: &Authority, scripted: &Scripted) -> String {
    testing::serve(authority, Routes::new(VmServiceServer::new(scripted.clone()))).await
}

const ID: &str = "0192f0c1-2c5e-7d4a-8f00-0123456789ab";

async fn start(client: &mut Client) -> Result<v1::VmAnswer, Failure> {
    let write = v1::Write { request_id: ID.into(), ..v1::Write::default() };
    let question = v1::StartVmRequest { write: Some(write), name: "web-1".into(), ..v1::StartVmRequest::default() };
    let effect = Effect::Write { request_id: ID.into(), check: "berth vm show web-1".into() };
    client
        .ask(
            &effect,
            question,
            |channel, question| async move { VmServiceClient::new(channel).start_vm(question).await },
        )
        .await
}

fn acts(acts: impl IntoIterator<Item = Act>) -> Scripted {
    Scripted { acts: Arc::new(Mutex::new(acts.into_iter().collect())), ..Scripted::default() }
}

fn no_leader() -> Status {
    to_status(Code::Unavailable, "BE-5001", "no leader at present", None)
}

#[tokio::test]
async fn a_request_goes_past_the_dead_and_the_leaderless_with_the_same_id() {
    let authority = authority();
    let (leaderless, leader) = (acts([Act::Fail(no_leader())]), acts([Act::Answer]));
    let endpoints = [nobody().await, serve(&authority, &leaderless).await, serve(&authority, &leader).await];
    let endpoints: Vec<_> = endpoints.iter().map(String::as_str).collect();
    let mut client = operator(&authority, &endpoints);
    assert_eq!(start(&mut client).await.unwrap().request_id, ID);
    assert_eq!(*leaderless.seen.lock().unwrap(), [ID]);
    assert_eq!(*leader.seen.lock().unwrap(), [ID]);
    assert_eq!(client.endpoint(), endpoints[2], "the next request goes where this one was answered");
}

#[tokio::test]
async fn the_same_controllers_are_asked_again_while_there_is_time() {
    let authority = authority();
    let scripted = acts([Act::Fail(no_leader()), Act::Fail(Status::unavailable("going down")), Act::Answer]);
    let address = serve(&authority, &scripted).await;
    let mut client = operator(&authority, &[&address]);
    start(&mut client).await.unwrap();
    assert_eq!(*scripted.seen.lock().unwrap(), [ID, ID, ID]);
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_is_not_tried_elsewhere() {
    let authority = authority();
    let refusing = acts([Act::Fail(to_status(Code::NotFound, "BE-2002", "no VM web-1", Some("see 'berth vm list'")))]);
    let other = acts([]);
    let endpoints = [serve(&authority, &refusing).await, serve(&authority, &other).await];
    let mut client =
        client(credentials(&authority, Role::Operator, "o"), &[&endpoints[0], &endpoints[1]], Duration::from_secs(30));
    let failure = start(&mut client).await.unwrap_err();
    assert_eq!(failure.render(false), "error[BE-2002]: no VM web-1\nhint: see 'berth vm list'\n");
    assert_eq!(failure.status(), ExitStatus::Refused);
    assert!(other.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_write_that_may_have_arrived_ends_as_unknown_with_its_id_and_how_to_look() {
    let authority = authority();
    let address = serve(&authority, &acts([Act::Hang])).await;
    let mut client = client(credentials(&authority, Role::Operator, "o"), &[&address], Duration::from_secs(3));
    let failure = start(&mut client).await.unwrap_err();
    assert_eq!(failure.status(), ExitStatus::OutcomeUnknown);
    let text = failure.render(false);
    assert!(
        text.starts_with("error[BE-5002]: the request was sent and no controller confirmed it within 3 s"),
        "{text}"
    );
    assert!(text.contains("look with 'berth vm show web-1'") && text.contains(ID), "{text}");
}

#[tokio::test]
async fn a_write_that_reached_nobody_is_unavailable_and_not_unknown() {
    let authority = authority();
    let address = nobody().await;
    let mut client = client(credentials(&authority, Role::Operator, "o"), &[&address], Duration::from_secs(1));
    let failure = start(&mut client).await.unwrap_err();
    assert_eq!(failure.status(), ExitStatus::Unavailable);
    assert_eq!(failure.code_text(), Some("BE-5008"));
    assert!(failure.render(false).contains(&format!("{address}: connection refused")), "{}", failure.render(false));
}

#[tokio::test]
async fn a_cluster_without_leader_is_told_from_one_that_does_not_answer() {
    let authority = authority();
    let scripted = acts((0..50).map(|_| Act::Fail(no_leader())));
    let address = serve(&authority, &scripted).await;
    let mut client = client(credentials(&authority, Role::Operator, "o"), &[&address], Duration::from_secs(1));
    let failure = start(&mut client).await.unwrap_err();
    assert_eq!((failure.status(), failure.code_text()), (ExitStatus::Unavailable, Some("BE-5001")));
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_role_is_denied_at_once() {
    let (ours, theirs) = (authority(), authority());
    let scripted = acts([]);
    let address = serve(&ours, &scripted).await;
    let long = Duration::from_secs(300);

    let mut host = client(credentials(&ours, Role::Host, "h1"), &[&address], long);
    let failure = start(&mut host).await.unwrap_err();
    assert_eq!((failure.status(), failure.code_text()), (ExitStatus::Denied, Some("BE-4003")));

    let mut stranger = client(credentials(&theirs, Role::Operator, "o"), &[&address], long);
    let failure = start(&mut stranger).await.unwrap_err();
    assert_eq!((failure.status(), failure.code_text()), (ExitStatus::Denied, Some("BE-4002")));
    assert!(scripted.seen.lock().unwrap().is_empty());
}
