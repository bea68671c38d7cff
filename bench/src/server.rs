//! One member of a key-value store over our log: what etcd is over its own.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use berth_pki::{Accepted, Allow, Credentials, Expect, Limits, Role};
use berth_raft::{Handle, Io, Links, LogWork, Member, PeerIo, ProposeError, ReadMode};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response, Status};

use crate::machine::{self, Machine, Reader, State, Version};
use crate::wire;
use crate::wire::proto::counters::counters_server::{Counters, CountersServer};
use crate::wire::proto::counters::{CountersRequest, CountersResponse};
use crate::wire::proto::etcdserverpb::kv_server::{Kv, KvServer};
use crate::wire::proto::etcdserverpb::maintenance_server::{Maintenance, MaintenanceServer};
use crate::wire::proto::etcdserverpb::{
    PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader, StatusRequest, StatusResponse,
};
use crate::wire::proto::mvccpb::KeyValue;

/// How long a write or a linearizable read may take: what etcd allows with its defaults, within an election.
const ANSWER_WITHIN: Duration = Duration::from_secs(7);

/// How long a connection to another member may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// One member.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its id.
    #[arg(long)]
    id: u64,
    /// Its data.
    #[arg(long)]
    data: PathBuf,
    /// The folder of its certificate.
    #[arg(long)]
    tls: PathBuf,
    /// All members, each as ID,NAME,RAFT,API with both addresses as address:port.
    #[arg(long = "member", required = true)]
    members: Vec<MemberArg>,
}

#[derive(Debug, Clone)]
struct MemberArg(Member);

impl FromStr for MemberArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').collect();
        let [id, name, raft_addr, api_addr] = parts[..] else {
            return Err(format!("{text:?} is not of the form ID,NAME,RAFT,API"));
        };
        Ok(Self(Member {
            id: id.parse().map_err(|error| format!("{id:?} is no id: {error}"))?,
            name: name.to_owned(),
            raft_addr: raft_addr.to_owned(),
            api_addr: api_addr.to_owned(),
            domain: String::new(),
        }))
    }
}

/// Runs the member until it is told to stop.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        runtime.worker_threads(workers());
    }
    runtime.enable_all().build()?.block_on(serve(args))
}

/// Half the processors: the log's own writer and the kernel's network want some too, and few workers hand fewer tasks to and
/// fro. With one worker less on two processors, a single client's writes are half as fast again.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().div_ceil(2))
}

async fn serve(args: &Args) -> Result<()> {
    let credentials = wire::credentials(&args.tls)?;
    let shutdown = berth_telemetry::shutdown_signal().context("cannot listen for signals")?;
    let members: Vec<Member> = args.members.iter().map(|MemberArg(member)| member.clone()).collect();
    let Some(own) = members.iter().find(|member| member.id == args.id).cloned() else {
        bail!("no --member has the id {}", args.id);
    };
    let api = bind(&own.api_addr).await?;
    let raft = bind(&own.raft_addr).await?;
    let machine = Machine::default();
    let reader = machine.reader();
    let options = berth_raft::Options::new(args.id, &args.data, members, Arc::new(TlsLinks(credentials.clone())));
    let (handle, service) = berth_raft::open(options, machine).await?;
    let peers = berth_pki::accept(raft, credentials.server_config(Allow::only([Role::Controller])), Limits::default());
    let stop = CancellationToken::new();
    let raft_served = tokio::spawn(service.run(incoming(peers), stop.clone().cancelled_owned()));

    let clients = berth_pki::accept(api, credentials.server_config(Allow::only([Role::Operator])), Limits::default());
    let clients = clients.map(|accepted| accepted.map(Client));
    let answers = Answers { handle: handle.clone(), reader, id: args.id };
    tonic::transport::Server::builder()
        .add_service(KvServer::new(answers.clone()))
        .add_service(MaintenanceServer::new(answers.clone()))
        .add_service(CountersServer::new(answers))
        .serve_with_incoming_shutdown(clients, shutdown.cancelled_owned())
        .await?;
    stop.cancel();
    handle.shutdown().await;
    raft_served.await??;
    Ok(())
}

async fn bind(address: &str) -> Result<TcpListener> {
    let address: SocketAddr = address.parse().with_context(|| format!("{address:?} is no address"))?;
    TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))
}

/// Connections to other members.
struct TlsLinks(Credentials);

impl Links for TlsLinks {
    fn connect(&self, member: &Member) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let config = self.0.client_config(Expect::named(Role::Controller, member.name.clone()));
        let address = member.raft_addr.clone();
        async move {
            let stream = berth_pki::connect(&address, config, CONNECT_WITHIN).await?;
            Ok(Box::new(stream) as Box<dyn Io>)
        }
        .boxed()
    }
}

/// Connections from other members.
fn incoming(
    accepted: impl Stream<Item = io::Result<Accepted>> + Send + 'static,
) -> impl Stream<Item = io::Result<PeerIo>> + Send + 'static {
    accepted.map(|accepted| {
        accepted.map(|accepted| {
            let peer = accepted.peer.name().to_owned();
            PeerIo { io: Box::new(accepted), peer }
        })
    })
}

/// A client's connection, as tonic wants it.
struct Client(Accepted);

impl Connected for Client {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Answers calls.
#[derive(Clone)]
struct Answers {
    handle: Handle,
    reader: Reader,
    id: u64,
}

impl Answers {
    fn header(&self, revision: u64) -> ResponseHeader {
        let raft_term = self.handle.leadership().borrow().term;
        ResponseHeader { cluster_id: 1, member_id: self.id, revision: signed(revision), raft_term }
    }
}

/// Revisions are signed on the wire.
fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn key_value(version: &Version) -> KeyValue {
    KeyValue {
        key: version.key.clone(),
        create_revision: signed(version.created),
        mod_revision: signed(version.revision),
        version: signed(version.writes),
        value: version.value.clone(),
    }
}

fn refusal(error: &ProposeError) -> Status {
    let code = match error {
        ProposeError::TooLarge { .. } => Code::InvalidArgument,
        _ => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

fn find(state: &State, request: &RangeRequest) -> Result<Vec<KeyValue>, Status> {
    let compacted = |error: machine::RevisionError| Status::out_of_range(error.to_string());
    let revision =
        u64::try_from(request.revision).map_err(|_| Status::invalid_argument("revisions are not negative"))?;
    if request.range_end.is_empty() {
        let found = state.get(&request.key, revision).map_err(compacted)?;
        return Ok(found.map(key_value).into_iter().collect());
    }
    if request.range_end <= request.key {
        return Ok(Vec::new());
    }
    let limit = usize::try_from(request.limit).ok().filter(|&limit| limit > 0).unwrap_or(usize::MAX);
    let found = state.range(&request.key, &request.range_end, revision, limit).map_err(compacted)?;
    Ok(found.into_iter().map(key_value).collect())
}

#[tonic::async_trait]
impl Kv for Answers {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let request = request.into_inner();
        if !request.serializable {
            let barrier = self.handle.read_barrier(ReadMode::Index, ANSWER_WITHIN).await;
            barrier.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        let (kvs, revision) = {
            let state = self.reader.state();
            (find(&state, &request)?, state.revision())
        };
        let count = i64::try_from(kvs.len()).unwrap_or(i64::MAX);
        let more = request.limit > 0 && count == request.limit;
        Ok(Response::new(RangeResponse { header: Some(self.header(revision)), kvs, more, count }))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let PutRequest { key, value } = request.into_inner();
        let payload =
            machine::put(&key, &value).ok_or_else(|| Status::invalid_argument("keys are shorter than 64 KiB"))?;
        let answer = self.handle.propose(payload, ANSWER_WITHIN).await.map_err(|error| refusal(&error))?;
        let revision =
            machine::revision_of(&answer).ok_or_else(|| Status::internal("the machine answered without a revision"))?;
        Ok(Response::new(PutResponse { header: Some(self.header(revision)) }))
    }
}

#[tonic::async_trait]
impl Maintenance for Answers {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let leader = self.handle.leadership().borrow().leader.as_ref().map(|leader| leader.id);
        let revision = self.reader.state().revision();
        Ok(Response::new(StatusResponse {
            header: Some(self.header(revision)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leader: leader.unwrap_or_default(),
        }))
    }
}

#[tonic::async_trait]
impl Counters for Answers {
    async fn read(&self, _request: Request<CountersRequest>) -> Result<Response<CountersResponse>, Status> {
        let LogWork { syncs, bytes } = self.handle.log_work();
        Ok(Response::new(CountersResponse { syncs, bytes }))
    }
}
