//! Serial consoles: the operator's stream is joined to the host's by a ticket.

use std::pin::Pin;

use berth_proto::status::to_status;
use berth_proto::v1;
use berth_proto::v1::console_service_server::ConsoleService;
use berth_proto::v1::host_stream_service_client::HostStreamServiceClient;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Shared, caller, error, peer};

/// The service.
pub(super) struct Service(pub(super) Shared);

/// Pieces of typing that wait for the host: a slow host slows the typist down.
const WAITING: usize = 32;

/// How long a client may take to name its VM.
const FIRST_INPUT_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

#[tonic::async_trait]
impl ConsoleService for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::ConsoleOutput, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachInput>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let actor = caller::actor(&request)?;
        let mut typed = request.into_inner();
        let first = tokio::time::timeout(FIRST_INPUT_WITHIN, typed.message()).await;
        let first = first.map_err(|_| error::missing("the first input's target"))??.and_then(|first| first.input);
        let Some(v1::attach_input::Input::Target(target)) = first else {
            return Err(error::missing("the first input's target"));
        };
        let v1::AttachTarget { project, name, expected_uid } = target;
        let ask = v1::IssueTicketRequest {
            project,
            name,
            expected_uid,
            right: v1::TicketRight::Console.into(),
            actor: actor.to_string(),
        };
        let issued = peer::ticket_for(&self.0, ask).await?;
        let channel = self.0.peers.host(&issued.host_address, &issued.host_name).await.map_err(|failure| {
            let message = format!("host {} does not answer at {}: {failure}", issued.host_name, issued.host_address);
            to_status(Code::Unavailable, "BE-6005", message, Some("try again; 'berth host show' tells how the host is"))
        })?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let ticket = v1::ConsoleInput { input: Some(v1::console_input::Input::Ticket(issued.ticket)) };
        sender.try_send(ticket).expect("the channel is new and empty");
        tokio::spawn(forward(typed, sender));
        let output = HostStreamServiceClient::new(channel).console(ReceiverStream::new(receiver)).await?.into_inner();
        let going_down = self.0.shutdown.clone();
        let output = output.take_until(async move { going_down.cancelled().await });
        Ok(Response::new(Box::pin(output)))
    }
}

/// Passes on what is typed until either side ends; then the host sees its input end.
async fn forward(mut typed: Streaming<v1::AttachInput>, sender: mpsc::Sender<v1::ConsoleInput>) {
    while let Ok(Some(piece)) = typed.message().await {
        if let Some(v1::attach_input::Input::Data(data)) = piece.input {
            let input = v1::ConsoleInput { input: Some(v1::console_input::Input::Data(data)) };
            if sender.send(input).await.is_err() {
                return;
            }
        }
    }
}
