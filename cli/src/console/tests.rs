//! A console that is carried on through another controller.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use berth_proto::v1::console_service_server::{ConsoleService, ConsoleServiceServer};
use tonic::service::Routes;
use tonic::{Request as Question, Response, Status};

use super::*;
use crate::client::testing::{authority, operator, serve};

type Sent = Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::ConsoleOutput, Status>> + Send>>;

/// A controller that joins, sends these outputs, and ends.
#[derive(Clone)]
struct Scripted {
    outputs: Vec<Output>,
    /// Whether the end is an error of the connection.
    breaks: bool,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// Who was asked for: name and expected uid.
type Asked = (String, Option<String>);

fn scripted(outputs: impl IntoIterator<Item = Output>) -> Scripted {
    Scripted { outputs: outputs.into_iter().collect(), breaks: false, asked: Arc::default() }
}

#[tonic::async_trait]
impl ConsoleService for Scripted {
    type AttachStream = Sent;

    async fn attach(&self, request: Question<Streaming<v1::AttachInput>>) -> Result<Response<Sent>, Status> {
        let first = request.into_inner().message().await?.unwrap();
        let Some(Input::Target(target)) = first.input else { return Err(Status::invalid_argument("no target")) };
        self.asked.lock().unwrap().push((target.name, target.expected_uid));
        let outputs = self.outputs.clone().into_iter();
        let outputs = outputs.map(|output| Ok(v1::ConsoleOutput { output: Some(output) }));
        let end = self.breaks.then(|| Err(Status::unavailable("gone")));
        Ok(Response::new(Box::pin(tokio_stream::iter(outputs.chain(end)))))
    }
}

fn opened() -> Output {
    Output::Opened(v1::ConsoleOpened { vm: "u1".into(), host: "h1".into() })
}

fn data(text: &str) -> Output {
    Output::Data(text.into())
}

fn end(reason: v1::ConsoleEndReason, message: &str) -> Output {
    Output::End(v1::ConsoleEnd { reason: reason.into(), message: message.into() })
}

/// Attends to these controllers in turn, and says how it ended and what was printed.
async fn attended(controllers: &[&Scripted], until: Option<&str>) -> (Result<ExitStatus, Failure>, String) {
    let authority = authority();
    let mut addresses = Vec::new();
    for controller in controllers {
        let service = ConsoleServiceServer::new((*controller).clone());
        addresses.push(serve(&authority, Routes::new(service)).await);
    }
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let mut client = operator(&authority, &addresses);
    let request =
        Request { project: "default".into(), name: "web-1".into(), until: until.map(Into::into), timeout: None };
    let (mut printer, out, _) = Printer::to_memory();
    let (_typing, mut input) = mpsc::channel(1);
    let mut needle = until.map(Needle::new);
    let outcome = attend(&mut client, &mut printer, &request, false, &mut input, needle.as_mut()).await;
    (outcome, out.text())
}

#[tokio::test]
async fn a_text_is_found_across_the_loss_of_a_controller_and_the_vm_stays_the_same_one() {
    let first = scripted([opened(), data("web-1 lo"), end(v1::ConsoleEndReason::GoingAway, "restarting")]);
    let second = scripted([opened(), data("gin: "), data("never printed")]);
    let (outcome, printed) = attended(&[&first, &second], Some("login:")).await;
    assert_eq!(outcome, Ok(ExitStatus::Ok));
    assert_eq!(printed, "web-1 login: ");
    assert_eq!(*first.asked.lock().unwrap(), [("web-1".into(), None)]);
    assert_eq!(*second.asked.lock().unwrap(), [("web-1".into(), Some("u1".into()))]);
}

#[tokio::test]
async fn a_stream_that_breaks_or_merely_ends_is_joined_again() {
    let breaking = Scripted { breaks: true, ..scripted([opened(), data("a")]) };
    let ending = scripted([opened(), data("b")]);
    let last = scripted([opened(), data("c"), end(v1::ConsoleEndReason::VmStopped, "the VM was shut down")]);
    let (outcome, printed) = attended(&[&breaking, &ending, &last], None).await;
    assert_eq!(outcome, Ok(ExitStatus::Ok));
    assert_eq!(printed, "abc");
}

#[tokio::test]
async fn a_vm_that_stops_before_the_text_appears_is_a_failure() {
    let only = scripted([opened(), data("panic"), end(v1::ConsoleEndReason::VmStopped, "the VM was shut down")]);
    let (outcome, _) = attended(&[&only], Some("login:")).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.status(), ExitStatus::Refused);
    assert_eq!(failure.to_string(), "the VM stopped before the text appeared: the VM was shut down");
}

#[tokio::test]
async fn a_console_that_failed_says_why_with_its_code() {
    let only = scripted([opened(), end(v1::ConsoleEndReason::Failed, "the pty is gone")]);
    let failure = attended(&[&only], None).await.0.unwrap_err();
    assert_eq!(failure.code_text(), Some("BE-6005"));
}

#[tokio::test]
async fn a_console_that_another_took_over_is_not_taken_back() {
    let message = "another session took the console over";
    let only = scripted([opened(), end(v1::ConsoleEndReason::Failed, message)]);
    let failure = attended(&[&only], None).await.0.unwrap_err();
    assert_eq!(failure.to_string(), format!("the console failed: {message}"));
    assert_eq!(only.asked.lock().unwrap().len(), 1);
}
