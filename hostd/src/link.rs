//! One connection to a controller: dials, then moves words both ways until it ends.
//!
//! What is said is decided by the agent; this only carries it. Every end of a connection, whoever caused it, becomes one
//! [`Input::Ended`] with a reason for people.

use std::time::Duration;

use berth_host::agent::Input;
use berth_host::session::ConnectionId;
use berth_model::session::{ToController, ToHost};
use berth_pki::{Credentials, Expect, Role};
use berth_proto::v1;
use berth_proto::v1::agent_service_client::AgentServiceClient;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// How long a connection may take to stand; the agent gives up a little before this.
const DIAL: Duration = Duration::from_secs(4);
/// Words that wait to be sent. The agent says a heartbeat a second and at most one report at a time; a connection that
/// does not take so many is dead.
pub(crate) const WAITING_WORDS: usize = 64;
/// The longest word from a controller: a whole desired set, with a full megabyte of user data for each of 248 VMs.
const LONGEST_WORD: usize = 256 << 20;

/// Dials `address` and carries the session on `connection` until it ends. Never fails: its end is told to the agent.
pub(crate) async fn carry(
    connection: ConnectionId,
    address: String,
    credentials: Credentials,
    words: mpsc::Receiver<ToController>,
    inputs: mpsc::Sender<Input>,
) {
    let why = match session(connection, &address, &credentials, words, &inputs).await {
        Ok(()) => format!("{address} ended the session"),
        Err(why) => format!("{address}: {why}"),
    };
    // Refused only when the agent itself has ended.
    let _ = inputs.send(Input::Ended(connection, why)).await;
}

async fn session(
    connection: ConnectionId,
    address: &str,
    credentials: &Credentials,
    words: mpsc::Receiver<ToController>,
    inputs: &mpsc::Sender<Input>,
) -> Result<(), String> {
    let channel = dial(address, credentials).await?;
    let ended = || "the agent has ended".to_owned();
    inputs.send(Input::Dialed(connection)).await.map_err(|_| ended())?;
    let mut client = AgentServiceClient::new(channel).max_decoding_message_size(LONGEST_WORD);
    let outgoing = ReceiverStream::new(words).map(|word| v1::ToController::from(&word));
    let said = |status: tonic::Status| {
        let problem = berth_pki::explain(&status);
        problem.map_or_else(|| format!("{}: {}", status.code(), status.message()), |problem| problem.to_string())
    };
    let mut incoming = client.session(outgoing).await.map_err(said)?.into_inner();
    while let Some(word) = incoming.message().await.map_err(said)? {
        let word = ToHost::try_from(word).map_err(|error| format!("it said what is not understood: {error}"))?;
        inputs.send(Input::Received(connection, word)).await.map_err(|_| ended())?;
    }
    Ok(())
}

async fn dial(address: &str, credentials: &Credentials) -> Result<Channel, String> {
    let config = credentials.client_config(Expect::any(Role::Controller));
    let stream = berth_pki::connect(address, config, DIAL).await.map_err(|error| error.problem.to_string())?;
    // One connection for one session: when it ends, the agent decides where to go next, not the channel.
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("a session's connection is not made twice")) }
    });
    // The name in this URI is looked at by nobody: the connection stands already.
    Endpoint::from_static("http://controller")
        .connect_with_connector(connector)
        .await
        .map_err(|error| format!("cannot begin to speak HTTP/2: {error}"))
}
