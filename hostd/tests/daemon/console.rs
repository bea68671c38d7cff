//! Consoles over real connections; only the terminal is imagined.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};

use berth_host::backend::BackendError;
use berth_hostd::console::{Options, Terminal, Terminals, serve};
use berth_hostd::driver::now;
use berth_model::{Epoch, Incarnation, Stamp, VmUid};
use berth_pki::ticket::{Right, Ticket, fresh_nonce, sign};
use berth_pki::{Credentials, Expect, Role};
use berth_proto::status::from_status;
use berth_proto::v1;
use berth_proto::v1::console_input::Input;
use berth_proto::v1::console_output::Output;
use berth_proto::v1::host_stream_service_client::HostStreamServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::trust::Trust;

fn vm() -> VmUid {
    "vm1".parse().unwrap()
}

/// A guest that answers every line with the same line, until its terminal is closed.
#[derive(Default)]
struct Echo {
    state: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

impl Terminal for Echo {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap();
        while state.0.is_empty() && !state.1 {
            state = self.changed.wait(state).unwrap();
        }
        let count = buffer.len().min(state.0.len());
        buffer[..count].copy_from_slice(&state.0[..count]);
        state.0.drain(..count);
        Ok(count)
    }

    fn write_all(&self, data: &[u8]) -> io::Result<()> {
        self.state.lock().unwrap().0.extend_from_slice(data);
        self.changed.notify_all();
        Ok(())
    }

    fn close(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// Gives one terminal at a time, as libvirt does when it is told to take over.
#[derive(Default)]
struct Guests(Mutex<Option<Arc<Echo>>>);

impl Terminals for Guests {
    fn open(&self, _vm: VmUid) -> Result<Arc<dyn Terminal>, BackendError> {
        let mut held = self.0.lock().unwrap();
        if let Some(before) = held.take() {
            before.close();
        }
        let echo = Arc::new(Echo::default());
        *held = Some(Arc::clone(&echo));
        Ok(echo)
    }
}

struct Port {
    trust: Trust,
    address: SocketAddr,
    guests: Arc<Guests>,
    stop: CancellationToken,
}

impl Port {
    async fn open() -> Self {
        let trust = Trust::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (guests, stop) = (Arc::new(Guests::default()), CancellationToken::new());
        let options = Options {
            host: "h1".into(),
            credentials: trust.credentials(Role::Host, "h1"),
            placement_of: Arc::new(|asked| {
                (asked == vm()).then_some(Stamp { incarnation: Incarnation(1), epoch: Epoch(5) })
            }),
            terminals: Arc::clone(&guests) as Arc<dyn Terminals>,
        };
        tokio::spawn(serve(listener, options, stop.clone()));
        Self { trust, address, guests, stop }
    }

    fn controller(&self) -> Credentials {
        self.trust.credentials(Role::Controller, "c1")
    }

    fn ticket(&self, change: impl FnOnce(&mut Ticket)) -> Vec<u8> {
        let mut ticket = Ticket {
            vm_uid: vm().to_string(),
            epoch: 5,
            incarnation: 1,
            right: Right::Console,
            holder: "c1".into(),
            nonce: fresh_nonce().unwrap(),
            expires_at_ms: now().wall.as_millis() + 30_000,
        };
        change(&mut ticket);
        sign(&self.controller(), &ticket).unwrap()
    }

    async fn attach(&self, first: Input) -> Result<(Attached, Streaming<v1::ConsoleOutput>), Status> {
        let mut client = HostStreamServiceClient::new(dial(self.address, &self.controller()).await);
        let (typed, receiver) = mpsc::channel(16);
        typed.send(v1::ConsoleInput { input: Some(first) }).await.unwrap();
        let shown = client.console(ReceiverStream::new(receiver)).await?.into_inner();
        Ok((Attached(typed), shown))
    }

    async fn refusal(&self, first: Input) -> String {
        let status = match self.attach(first).await {
            Err(status) => status,
            Ok((_typed, mut shown)) => shown.message().await.unwrap_err(),
        };
        let carried = from_status(&status);
        format!("{}: {}", carried.code.unwrap_or_default(), carried.message)
    }
}

struct Attached(mpsc::Sender<v1::ConsoleInput>);

impl Attached {
    async fn type_in(&self, bytes: &[u8]) {
        let input = Some(Input::Data(bytes.to_vec()));
        self.0.send(v1::ConsoleInput { input }).await.unwrap();
    }
}

async fn dial(address: SocketAddr, credentials: &Credentials) -> Channel {
    let config = credentials.client_config(Expect::named(Role::Host, "h1"));
    let within = std::time::Duration::from_secs(10);
    let stream = berth_pki::connect(&address.to_string(), config, within).await.unwrap();
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.take().unwrap();
        async move { Ok::<_, io::Error>(stream) }
    });
    Endpoint::from_static("http://host").connect_with_connector(connector).await.unwrap()
}

async fn next(shown: &mut Streaming<v1::ConsoleOutput>) -> Output {
    shown.message().await.unwrap().unwrap().output.unwrap()
}

async fn end(shown: &mut Streaming<v1::ConsoleOutput>) -> v1::ConsoleEndReason {
    loop {
        if let Output::End(end) = next(shown).await {
            return end.reason();
        }
    }
}

#[tokio::test]
async fn with_a_ticket_bytes_flow_both_ways() {
    let port = Port::open().await;
    let (attached, mut shown) = port.attach(Input::Ticket(port.ticket(|_| {}))).await.unwrap();
    assert!(matches!(next(&mut shown).await, Output::Opened(opened) if opened.vm == "vm1" && opened.host == "h1"));
    attached.type_in(b"hello\n").await;
    assert_eq!(next(&mut shown).await, Output::Data(b"hello\n".to_vec()));
}

#[tokio::test]
async fn tickets_that_are_not_for_this_are_refused() {
    let port = Port::open().await;
    let other_epoch = port.refusal(Input::Ticket(port.ticket(|ticket| ticket.epoch = 4))).await;
    assert!(other_epoch.starts_with("BE-4004") && other_epoch.contains("obeys 1/5"), "{other_epoch}");
    let other_incarnation = port.refusal(Input::Ticket(port.ticket(|ticket| ticket.incarnation = 2))).await;
    assert!(other_incarnation.starts_with("BE-4004"), "{other_incarnation}");
    let other_vm = port.refusal(Input::Ticket(port.ticket(|ticket| ticket.vm_uid = "vm2".into()))).await;
    assert!(other_vm.contains("obeys none"), "{other_vm}");
    let other_holder = port.refusal(Input::Ticket(port.ticket(|ticket| ticket.holder = "c2".into()))).await;
    assert!(other_holder.starts_with("BE-4004"), "{other_holder}");
    let expired = port.refusal(Input::Ticket(port.ticket(|ticket| ticket.expires_at_ms -= 60_000))).await;
    assert!(expired.starts_with("BE-4004"), "{expired}");
    let none = port.refusal(Input::Data(b"root\n".to_vec())).await;
    assert!(none.starts_with("BE-4004"), "{none}");
    let nonsense = port.refusal(Input::Ticket(vec![1, 2, 3])).await;
    assert!(nonsense.starts_with("BE-4004"), "{nonsense}");
}

#[tokio::test]
async fn a_ticket_is_good_once() {
    let port = Port::open().await;
    let ticket = port.ticket(|_| {});
    drop(port.attach(Input::Ticket(ticket.clone())).await.unwrap());
    let again = port.refusal(Input::Ticket(ticket)).await;
    assert!(again.contains("used before"), "{again}");
}

#[tokio::test]
async fn whoever_is_no_controller_does_not_come_in() {
    let port = Port::open().await;
    for role in [Role::Operator, Role::Host] {
        let config = port.trust.credentials(role, "x").client_config(Expect::any(Role::Host));
        let within = std::time::Duration::from_secs(10);
        berth_pki::connect(&port.address.to_string(), config, within).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_new_session_takes_the_console_over_and_the_old_one_is_told() {
    let port = Port::open().await;
    let (_first, mut first_shown) = port.attach(Input::Ticket(port.ticket(|_| {}))).await.unwrap();
    let (second, mut second_shown) = port.attach(Input::Ticket(port.ticket(|_| {}))).await.unwrap();
    assert_eq!(end(&mut first_shown).await, v1::ConsoleEndReason::Failed);
    assert!(matches!(next(&mut second_shown).await, Output::Opened(_)));
    second.type_in(b"mine").await;
    assert_eq!(next(&mut second_shown).await, Output::Data(b"mine".to_vec()));
}

#[tokio::test]
async fn the_end_of_the_vm_and_of_the_daemon_are_told_apart() {
    let port = Port::open().await;
    let (_attached, mut shown) = port.attach(Input::Ticket(port.ticket(|_| {}))).await.unwrap();
    assert!(matches!(next(&mut shown).await, Output::Opened(_)));
    port.guests.0.lock().unwrap().as_ref().unwrap().close();
    assert_eq!(end(&mut shown).await, v1::ConsoleEndReason::VmStopped);
    let (_attached, mut shown) = port.attach(Input::Ticket(port.ticket(|_| {}))).await.unwrap();
    assert!(matches!(next(&mut shown).await, Output::Opened(_)));
    port.stop.cancel();
    assert_eq!(end(&mut shown).await, v1::ConsoleEndReason::GoingAway);
}
