//! The wire format's second witness: some messages spelled out by hand, and a call with nothing of the crate in between.

use berth_raft::Io;
use hyper_util::rt::TokioIo;

#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadIndexRequest {
    #[prost(uint64, tag = "1")]
    pub timeout_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadIndexResponse {
    #[prost(uint64, optional, tag = "1")]
    pub index: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Ballot {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub member: u64,
    #[prost(bool, tag = "3")]
    pub committed: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct VoteRequest {
    #[prost(message, optional, tag = "1")]
    pub ballot: Option<Ballot>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct VoteResponse {
    #[prost(message, optional, tag = "1")]
    pub ballot: Option<Ballot>,
    #[prost(bool, tag = "2")]
    pub granted: bool,
}

/// Calls a member over a stream.
pub async fn call<Q, A>(io: Box<dyn Io>, method: &'static str, question: Q) -> Result<A, tonic::Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut io = Some(io);
    let connector = tower::service_fn(move |_| {
        let io = io.take().ok_or_else(|| std::io::Error::other("one stream, one connection"));
        async move { Ok::<_, std::io::Error>(TokioIo::new(io?)) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://test.invalid");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = method.parse().unwrap();
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    client.unary(tonic::Request::new(question), path, codec).await.map(tonic::Response::into_inner)
}
