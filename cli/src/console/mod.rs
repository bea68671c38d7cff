//! A VM's serial console on this terminal, or through a pipe.
//!
//! On a terminal every key goes to the guest, Ctrl-C too; Ctrl-] leaves. Through a pipe standard input is sent as it
//! comes, and its end does not end the console, so that `echo reboot | berth vm console web-1` shows the answer. When
//! the controller in between goes away, another one carries on; what the guest wrote meanwhile may be lost.

mod terminal;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use berth_proto::v1;
use berth_proto::v1::attach_input::Input;
use berth_proto::v1::console_output::Output;
use berth_proto::v1::console_service_client::ConsoleServiceClient;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::client::{ATTEMPT, Client, Trouble, Verdict, judge};
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;
use terminal::RawTerminal;
use text::{Needle, before_escape};

/// How long `--until` looks for its text if `--timeout` does not say: longer than a slow guest's boot.
const UNTIL: Duration = Duration::from_secs(180);
/// The pause before the same controllers are asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// Chunks of input on their way: a person's paste, no more.
const QUEUE: usize = 16;
/// The longest chunk.
const CHUNK: usize = 4096;

/// Whose console, and until when.
#[derive(Debug)]
pub(crate) struct Request {
    /// The project.
    pub(crate) project: String,
    /// The VM's name.
    pub(crate) name: String,
    /// End when the guest has written this.
    pub(crate) until: Option<String>,
    /// As `--timeout` says.
    pub(crate) timeout: Option<Duration>,
}

/// Why a stream came to its end.
enum End {
    /// As wished: the text was seen, or the person left.
    Done,
    /// The VM stopped.
    Stopped(String),
    /// Another controller may carry on.
    Broken(Trouble),
    /// No use in going on.
    Failed(Failure),
}

/// Runs the console until it ends.
pub(crate) async fn run(client: &mut Client, printer: &mut Printer, request: Request) -> Result<ExitStatus, Failure> {
    let interactive = request.until.is_none() && io::stdin().is_terminal() && io::stdout().is_terminal();
    let limit = match (&request.until, request.timeout) {
        (_, Some(limit)) if !interactive => Some(limit),
        (Some(_), None) => Some(UNTIL),
        _ => None,
    };
    let _terminal = if interactive {
        printer.note(&format!("Joined to the console of {}/{}. Ctrl-] leaves it.", request.project, request.name));
        Some(RawTerminal::enter(io::stdin())?)
    } else {
        None
    };
    let mut input = read_input();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut needle = request.until.as_deref().map(Needle::new);
    let joined = attend(client, printer, &request, interactive, &mut input, needle.as_mut());
    let limited = async {
        match limit {
            Some(limit) => tokio::time::timeout(limit, joined).await.map_err(|_| limit),
            None => Ok(joined.await),
        }
    };
    tokio::select! {
        outcome = limited => match outcome {
            Ok(outcome) => outcome,
            // Without a text to look for, the time was the only wish.
            Err(limit) => match &request.until {
                None => Ok(ExitStatus::Ok),
                Some(text) => Err(Failure::refused(format!(
                    "{text:?} did not appear on the console of {}/{} within {} s",
                    request.project, request.name, limit.as_secs_f32()
                ))
                .hint("what a guest wrote before the console was joined is not seen again; a line sent on standard input may bring a prompt")),
            },
        },
        _ = terminate.recv() => Ok(ExitStatus::Interrupted),
    }
}

/// Joins, and joins again elsewhere when the way breaks.
async fn attend(
    client: &mut Client,
    printer: &mut Printer,
    request: &Request,
    interactive: bool,
    input: &mut mpsc::Receiver<Vec<u8>>,
    mut needle: Option<&mut Needle>,
) -> Result<ExitStatus, Failure> {
    let newline = if interactive { "\r\n" } else { "" };
    let mut uid = None;
    let mut alive = Instant::now();
    let mut said = String::new();
    loop {
        let end = match join(client, request, uid.clone()).await {
            Ok((stream, to_guest)) => {
                if !said.is_empty() && needle.is_none() {
                    printer.note(&format!("{newline}[joined again]{newline}"));
                    said.clear();
                }
                let end =
                    pass(stream, to_guest, printer, interactive, input, needle.as_deref_mut(), &mut uid, &mut alive)
                        .await?;
                client.turn();
                end
            }
            Err(trouble) => match judge(client.endpoint(), &trouble) {
                // The VM may just be starting, or its host's daemon: what was joined once can be joined again.
                Verdict::Final(failure)
                    if failure.code_text().is_some_and(may_pass) && (request.until.is_some() || uid.is_some()) =>
                {
                    if request.until.is_some() {
                        alive = Instant::now();
                    }
                    End::Broken(trouble)
                }
                Verdict::Final(failure) => End::Failed(failure),
                Verdict::Elsewhere { .. } => {
                    client.turn();
                    End::Broken(trouble)
                }
            },
        };
        match end {
            End::Done => return Ok(ExitStatus::Ok),
            End::Stopped(message) if needle.is_some() => {
                return Err(
                    Failure::refused(format!("the VM stopped before the text appeared: {message}")).code("BE-6005")
                );
            }
            End::Stopped(message) => {
                printer.note(&format!("{newline}The console ended: {message}{newline}"));
                return Ok(ExitStatus::Ok);
            }
            End::Failed(failure) => return Err(failure),
            End::Broken(trouble) if alive.elapsed() > client.timeout() => {
                return Err(Failure::new(
                    ExitStatus::Unavailable,
                    format!("the console was lost and no controller could join it again: {}", trouble.in_words()),
                )
                .code("BE-5008")
                .hint("the VM is not touched by this; see 'berth cluster status'"));
            }
            End::Broken(trouble) => {
                let why = trouble.in_words();
                if needle.is_none() && why != said {
                    printer.note(&format!("{newline}[{why}; joining again]{newline}"));
                    said = why;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Refusals that another attempt may not meet: a ticket for a placement that has just ended, a libvirt that restarts,
/// a console that is not there yet.
fn may_pass(code: &str) -> bool {
    matches!(code, "BE-4004" | "BE-6004" | "BE-6005")
}

type Joined = (Streaming<v1::ConsoleOutput>, mpsc::Sender<v1::AttachInput>);

async fn join(client: &mut Client, request: &Request, uid: Option<String>) -> Result<Joined, Trouble> {
    let channel = client.channel(ATTEMPT).await?;
    let (to_guest, from_us) = mpsc::channel(QUEUE);
    let target = v1::AttachTarget { project: request.project.clone(), name: request.name.clone(), expected_uid: uid };
    let first = v1::AttachInput { input: Some(Input::Target(target)) };
    to_guest.try_send(first).expect("the queue is new and holds more than one");
    let mut console = ConsoleServiceClient::new(channel);
    match tokio::time::timeout(ATTEMPT, console.attach(ReceiverStream::new(from_us))).await {
        Ok(Ok(answer)) => Ok((answer.into_inner(), to_guest)),
        Ok(Err(status)) => Err(Trouble::of_status(&status)),
        Err(_) => Err(Trouble::TooLate),
    }
}

#[expect(clippy::too_many_arguments, reason = "the two directions of one stream and the state that outlives it")]
async fn pass(
    mut stream: Streaming<v1::ConsoleOutput>,
    to_guest: mpsc::Sender<v1::AttachInput>,
    printer: &mut Printer,
    interactive: bool,
    input: &mut mpsc::Receiver<Vec<u8>>,
    mut needle: Option<&mut Needle>,
    uid: &mut Option<String>,
    alive: &mut Instant,
) -> Result<End, Failure> {
    let mut open = true;
    loop {
        tokio::select! {
            output = stream.message() => match output {
                Ok(Some(v1::ConsoleOutput { output: Some(output) })) => {
                    *alive = Instant::now();
                    match output {
                        Output::Opened(opened) => *uid = Some(opened.vm).filter(|uid| !uid.is_empty()),
                        Output::Data(bytes) => {
                            printer.bytes(&bytes)?;
                            if needle.as_mut().is_some_and(|needle| needle.feed(&bytes)) {
                                return Ok(End::Done);
                            }
                        }
                        Output::End(end) => return Ok(ended(end)),
                    }
                }
                Ok(Some(v1::ConsoleOutput { output: None })) => {}
                Ok(None) => return Ok(End::Broken(Trouble::closed())),
                Err(status) => {
                    let trouble = Trouble::of_status(&status);
                    return Ok(match judge("the console", &trouble) {
                        Verdict::Final(failure) => End::Failed(failure),
                        Verdict::Elsewhere { .. } => End::Broken(trouble),
                    });
                }
            },
            chunk = input.recv(), if open => match chunk {
                Some(chunk) => {
                    let (bytes, left) = if interactive { before_escape(&chunk) } else { (chunk.as_slice(), false) };
                    if !bytes.is_empty() {
                        let data = v1::AttachInput { input: Some(Input::Data(bytes.to_vec())) };
                        // A stream that is over takes nothing more; its end is read above.
                        let _ = to_guest.send(data).await;
                    }
                    if left {
                        return Ok(End::Done);
                    }
                }
                None => open = false,
            },
        }
    }
}

fn ended(end: v1::ConsoleEnd) -> End {
    let reason = end.reason();
    let message = if end.message.is_empty() { "without a word".into() } else { end.message };
    match reason {
        v1::ConsoleEndReason::VmStopped => End::Stopped(message),
        v1::ConsoleEndReason::GoingAway | v1::ConsoleEndReason::TooSlow => End::Broken(Trouble::said(message)),
        v1::ConsoleEndReason::Failed | v1::ConsoleEndReason::Unspecified => {
            End::Failed(Failure::refused(format!("the console failed: {message}")).code("BE-6005"))
        }
    }
}

/// Reads standard input on a thread of its own, because such a read cannot be called off.
fn read_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let mut buffer = [0; CHUNK];
        loop {
            match io::stdin().read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    });
    receiver
}
