//! Hosts' sessions: moves messages between the wire and control's host sessions.

use std::pin::Pin;

use berth_model::session::{ToController, ToHost};
use berth_proto::v1;
use berth_proto::v1::agent_service_server::AgentService;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Peer, Shared, error};

/// The service.
pub(super) struct Service(pub(super) Shared);

/// Messages of one host that wait to be handled: heartbeats and two reports. A host that floods waits.
const INBOUND: usize = 8;
/// Messages that wait for a slow host; its session waits with them and is found dead by its silence.
const OUTBOUND: usize = 16;

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::ToHost, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::ToController>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let proved = request.extensions().get::<Peer>().ok_or_else(error::no_certificate)?.0.name().to_owned();
        let mut words = request.into_inner();
        let (to_session, mut inbound) = mpsc::channel::<ToController>(INBOUND);
        let (outbound, from_session) = mpsc::channel::<ToHost>(OUTBOUND);
        let host = proved.clone();
        tokio::spawn(async move {
            while let Some(word) = words.next().await {
                match word.map(ToController::try_from) {
                    Ok(Ok(word)) => {
                        if to_session.send(word).await.is_err() {
                            return;
                        }
                    }
                    Ok(Err(malformed)) => {
                        tracing::warn!(
                            host.name = host,
                            "a host's message makes no sense, its session ends: {malformed}"
                        );
                        return;
                    }
                    Err(broken) => {
                        tracing::debug!(host.name = host, "the host's stream ended: {broken}");
                        return;
                    }
                }
            }
        });
        let shared = self.0.clone();
        tokio::spawn(async move {
            let served = shared.control.serve_host(&proved, &mut inbound, &outbound);
            let ended = tokio::select! {
                ended = served => ended,
                () = shared.shutdown.cancelled() => {
                    let _ = outbound.send(ToHost::Redirect { leader: None }).await;
                    Ok(())
                }
                () = outbound.closed() => Ok(()),
            };
            if let Err(failure) = ended {
                tracing::warn!(host.name = proved, code = failure.code, "host session failed: {failure}");
            }
        });
        let stream = ReceiverStream::new(from_session).map(|message| Ok(v1::ToHost::from(&message)));
        Ok(Response::new(Box::pin(stream)))
    }
}
