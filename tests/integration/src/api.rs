//! A member's API, called with a certificate of one's choice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_pki::{Credentials, Expect, Problem, Role};
use berth_proto::status::from_status;
use berth_proto::v1;
use berth_proto::v1::agent_service_client::AgentServiceClient;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;
use berth_proto::v1::console_service_client::ConsoleServiceClient;
use berth_proto::v1::host_service_client::HostServiceClient;
use berth_proto::v1::image_service_client::ImageServiceClient;
use berth_proto::v1::instance_type_service_client::InstanceTypeServiceClient;
use berth_proto::v1::vm_service_client::VmServiceClient;
use berth_proto::v1::watch_vms_event::Event;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take: longer than the servers' own deadlines.
const ANSWER: Duration = Duration::from_secs(20);

/// The API of one member. The connection is made when it is needed, and again after it broke.
#[derive(Clone, Debug)]
pub struct Api {
    /// The member's name.
    pub member: String,
    channel: Channel,
}

/// A call of one method, by its request type, for tests that send many kinds.
#[expect(async_fn_in_trait, reason = "only these tests call it")]
pub trait Call: Clone {
    /// What is answered.
    type Answer;
    /// Sends it.
    async fn call(self, api: &Api) -> Result<Self::Answer, Status>;
}

macro_rules! calls {
    ($($request:ident, $service:ident, $method:ident, $answer:ident;)*) => {$(
        impl Call for v1::$request {
            type Answer = v1::$answer;
            async fn call(self, api: &Api) -> Result<v1::$answer, Status> {
                $service::new(api.channel.clone()).$method(self).await.map(tonic::Response::into_inner)
            }
        }
    )*};
}

calls! {
    CreateVmRequest, VmServiceClient, create_vm, VmAnswer;
    GetVmRequest, VmServiceClient, get_vm, VmAnswer;
    ListVmsRequest, VmServiceClient, list_vms, ListVmsResponse;
    StartVmRequest, VmServiceClient, start_vm, VmAnswer;
    StopVmRequest, VmServiceClient, stop_vm, VmAnswer;
    RestartVmRequest, VmServiceClient, restart_vm, VmAnswer;
    ResetVmRequest, VmServiceClient, reset_vm, VmAnswer;
    PauseVmRequest, VmServiceClient, pause_vm, VmAnswer;
    ResumeVmRequest, VmServiceClient, resume_vm, VmAnswer;
    DeleteVmRequest, VmServiceClient, delete_vm, VmAnswer;
    UpdateLabelsRequest, VmServiceClient, update_labels, VmAnswer;
    CreateImageRequest, ImageServiceClient, create_image, ImageAnswer;
    GetImageRequest, ImageServiceClient, get_image, ImageAnswer;
    DeleteImageRequest, ImageServiceClient, delete_image, ImageAnswer;
    ListInstanceTypesRequest, InstanceTypeServiceClient, list_instance_types, ListInstanceTypesResponse;
    ListHostsRequest, HostServiceClient, list_hosts, ListHostsResponse;
    GetHostRequest, HostServiceClient, get_host, HostAnswer;
    GetStatusRequest, ClusterServiceClient, get_status, ClusterStatus;
}

impl Api {
    pub(crate) fn new(member: &str, address: SocketAddr, credentials: &Credentials) -> Self {
        Self::within(member, address, credentials, ANSWER)
    }

    /// With another deadline for answers.
    pub(crate) fn within(member: &str, address: SocketAddr, credentials: &Credentials, answer: Duration) -> Self {
        let config = credentials.client_config(Expect::named(Role::Controller, member));
        let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
            let config = Arc::clone(&config);
            async move { berth_pki::connect(&address.to_string(), config, CONNECT).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://member.berth").timeout(answer);
        Self { member: member.to_owned(), channel: endpoint.connect_with_connector_lazy(connector) }
    }

    /// The connection, for services that have no shorthand here.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Sends a request.
    pub async fn send<C: Call>(&self, request: C) -> Result<C::Answer, Status> {
        request.call(self).await
    }

    /// Sends a request that must be answered.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn ask<C: Call>(&self, request: C) -> C::Answer {
        request.call(self).await.unwrap_or_else(|status| panic!("{} refused: {status}", self.member))
    }

    /// What the cluster says of itself, confirmed with the leader.
    pub async fn status(&self) -> Result<v1::ClusterStatus, Status> {
        self.send(v1::GetStatusRequest::default()).await
    }

    /// The cluster's revision, confirmed with the leader.
    pub async fn revision(&self) -> u64 {
        self.ask(v1::GetStatusRequest::default()).await.revision
    }

    /// The revision that this member has reached, without asking anybody.
    pub async fn own_revision(&self) -> Result<u64, Status> {
        let request =
            v1::ListVmsRequest { consistency: v1::Consistency::Stale.into(), ..v1::ListVmsRequest::default() };
        Ok(self.send(request).await?.revision)
    }

    /// One VM of the default project.
    pub async fn vm(&self, name: &str) -> Result<v1::Vm, Status> {
        let answer = self.send(v1::GetVmRequest { name: name.to_owned(), ..v1::GetVmRequest::default() }).await?;
        Ok(answer.vm.expect("an answer about a VM holds it"))
    }

    /// One host.
    pub async fn host(&self, name: &str) -> Result<v1::Host, Status> {
        let answer = self.send(v1::GetHostRequest { name: name.to_owned(), ..v1::GetHostRequest::default() }).await?;
        Ok(answer.host.expect("an answer about a host holds it"))
    }

    /// Opens a watch over all VMs.
    pub async fn watch(&self, from_revision: Option<u64>) -> Result<Streaming<v1::WatchVmsEvent>, Status> {
        let request = v1::WatchVmsRequest { from_revision, ..v1::WatchVmsRequest::default() };
        VmServiceClient::new(self.channel()).watch_vms(request).await.map(tonic::Response::into_inner)
    }

    /// Says Hello as a host would, and gives the first word of the answer.
    pub async fn hello(&self, hello: v1::Hello) -> Result<Option<v1::ToHost>, Status> {
        let word = v1::ToController { word: Some(v1::to_controller::Word::Hello(hello)) };
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender.send(word).await.expect("the receiver is here");
        let words = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut answers = AgentServiceClient::new(self.channel()).session(Request::new(words)).await?.into_inner();
        answers.message().await
    }

    /// Watches one VM until it is as wanted, none standing for a VM that is not there; gives it and how long it took.
    ///
    /// # Panics
    /// When it is not so in time, with the VM as it was last seen.
    pub async fn vm_until(
        &self,
        name: &str,
        what: &str,
        within: Duration,
        wanted: impl Fn(Option<&v1::Vm>) -> bool,
    ) -> (Option<v1::Vm>, Duration) {
        let began = Instant::now();
        let mut last = None;
        let watching = async {
            loop {
                // A watch ends with its member; it is opened again.
                let Err(status) = self.follow(name, &wanted, &mut last).await else { return };
                last.get_or_insert_with(|| Err(status.to_string()));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let in_time = tokio::time::timeout(within, watching).await.is_ok();
        let limit = within.as_secs_f32();
        assert!(in_time, "not within {limit} s: VM {name} {what}; as it was last seen: {last:#?}");
        (last.and_then(Result::ok).flatten(), began.elapsed())
    }

    /// Joins a VM's serial console and presses Enter now and then until the guest has written a text; gives all that it
    /// wrote.
    ///
    /// # Panics
    /// When the text does not come in time.
    pub async fn console(&self, name: &str, text: &str, within: Duration) -> String {
        let mut heard = String::new();
        let mut trouble = None;
        let listening = async {
            loop {
                match self.listen(name, text, &mut heard).await {
                    Ok(()) => return,
                    // It does not run yet, or what was between went away.
                    Err(status) => trouble = Some(status),
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let in_time = tokio::time::timeout(within, listening).await.is_ok();
        let limit = within.as_secs_f32();
        assert!(in_time, "not within {limit} s: {name} writes {text:?}; last trouble: {trouble:?}; it wrote:\n{heard}");
        heard
    }

    async fn listen(&self, name: &str, text: &str, heard: &mut String) -> Result<(), Status> {
        let (typing, typed) = tokio::sync::mpsc::channel(8);
        let say = |input| v1::AttachInput { input: Some(input) };
        let target = v1::AttachTarget { name: name.to_owned(), ..v1::AttachTarget::default() };
        typing.send(say(v1::attach_input::Input::Target(target))).await.expect("the receiver is here");
        let typed = tokio_stream::wrappers::ReceiverStream::new(typed);
        let mut shown = ConsoleServiceClient::new(self.channel()).attach(typed).await?.into_inner();
        let mut enter = tokio::time::interval(Duration::from_secs(2));
        loop {
            let output = tokio::select! {
                output = shown.message() => output?.and_then(|output| output.output),
                _ = enter.tick() => {
                    let _ = typing.send(say(v1::attach_input::Input::Data(b"\n".to_vec()))).await;
                    continue;
                }
            };
            match output {
                Some(v1::console_output::Output::Data(data)) => heard.push_str(&String::from_utf8_lossy(&data)),
                Some(v1::console_output::Output::Opened(_)) => {}
                Some(v1::console_output::Output::End(end)) => return Err(Status::unavailable(end.message)),
                None => return Err(Status::unavailable("the console ended without a last word")),
            }
            if heard.contains(text) {
                return Ok(());
            }
        }
    }

    async fn follow(
        &self,
        name: &str,
        wanted: &impl Fn(Option<&v1::Vm>) -> bool,
        last: &mut Option<Result<Option<v1::Vm>, String>>,
    ) -> Result<(), Status> {
        let request = v1::WatchVmsRequest {
            project: "default".to_owned(),
            name: name.to_owned(),
            ..v1::WatchVmsRequest::default()
        };
        let mut events = VmServiceClient::new(self.channel()).watch_vms(request).await?.into_inner();
        let mut seen = None;
        let mut listed = false;
        loop {
            match events.message().await?.and_then(|event| event.event) {
                Some(Event::Added(vm) | Event::Modified(vm)) => seen = Some(vm),
                Some(Event::Deleted(_)) => seen = None,
                Some(Event::Bookmark(mark)) => listed |= mark.initial_list_done,
                None => return Err(Status::unavailable("the watch ended")),
            }
            *last = Some(Ok(seen.clone()));
            if listed && wanted(seen.as_ref()) {
                return Ok(());
            }
        }
    }

    /// Waits until a VM is in a phase; gives it and how long that took.
    ///
    /// # Panics
    /// When it is not so in time.
    pub async fn phase(&self, name: &str, phase: v1::VmPhase, within: Duration) -> (v1::Vm, Duration) {
        let is = |vm: Option<&v1::Vm>| {
            vm.and_then(|vm| vm.status.as_ref()).is_some_and(|status| status.phase == i32::from(phase))
        };
        let (vm, took) = self.vm_until(name, &format!("is {}", phase.as_str_name()), within, is).await;
        (vm.expect("a VM in a phase is there"), took)
    }
}

/// The `BE-NNNN` code of a refusal; gRPC's own word where Berth gave none.
pub fn code(status: &Status) -> String {
    from_status(status).code.unwrap_or_else(|| format!("no code, {:?}: {}", status.code(), status.message()))
}

/// Why a connection to an address, where a server of this role answers, is not made with these credentials.
///
/// # Panics
/// When it is made.
pub async fn denial(address: &str, server: Role, credentials: &Credentials) -> Problem {
    match berth_pki::connect(address, credentials.client_config(Expect::any(server)), CONNECT).await {
        Ok(_) => panic!("{address} let {} in", credentials.identity()),
        Err(error) => error.problem,
    }
}
