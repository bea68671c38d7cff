//! The verbs, one a file, and what they share.

mod cluster;
mod completion;
mod history;
mod host;
mod image;
mod instancetype;
mod man;
mod preference;
mod room;
mod version;
mod vm;

use std::time::{SystemTime, UNIX_EPOCH};

use berth_model::Timestamp;
use berth_proto::v1;
use serde::Serialize;

use crate::args::host::HostVerb;
use crate::args::{Args, Command, Global, HistoryVerb, image as image_args, vm as vm_args};
use crate::client::{self, Client, Effect};
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::render::{self, Style};
use crate::settings::Settings;

/// What every verb that talks to a cluster works with.
struct Session<'a> {
    global: Global,
    client: Client,
    printer: &'a mut Printer,
}

impl<'a> Session<'a> {
    fn open(global: Global, printer: &'a mut Printer) -> Result<Self, Failure> {
        let settings = Settings::load(&global)?;
        let client = Client::new(&settings, printer.remarks())?;
        Ok(Self { global, client, printer })
    }

    fn consistency(&self) -> i32 {
        client::consistency(&self.global).into()
    }

    fn style(&self) -> Style {
        Style { colour: self.printer.colour(), now: now() }
    }

    /// Prints a value as the person wants it.
    fn print<T: Serialize>(&mut self, value: &T, human: impl FnOnce(Style) -> String) -> Result<(), Failure> {
        let style = self.style();
        let text = render::output(self.global.output, value, || human(style))?;
        self.printer.data(&text)
    }
}

/// How a change is written: its id, what it expects, and how to look whether it was carried out.
struct Writing {
    write: v1::Write,
    effect: Effect,
}

impl Writing {
    fn new(
        request_id: Option<&str>,
        expected_uid: Option<String>,
        expected_revision: Option<u64>,
        check: String,
    ) -> Self {
        let request_id = client::request_id(request_id);
        Self {
            write: v1::Write { request_id: request_id.clone(), expected_uid, expected_revision },
            effect: Effect::Write { request_id, check },
        }
    }
}

fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}

/// A message field that a server must give.
fn given<T>(field: Option<T>, what: &str) -> Result<T, Failure> {
    field.ok_or_else(|| {
        Failure::refused(format!("the controller's answer holds no {what}"))
            .code("BE-9001")
            .hint("is it of another version than this program? See 'berth version' and 'berth cluster status'")
    })
}

/// Carries out a command.
pub(crate) async fn run(args: Args, printer: &mut Printer) -> Result<ExitStatus, Failure> {
    let Args { global, command } = args;
    match command {
        Command::Completion { shell } => completion::run(printer, shell),
        Command::Man { dir } => man::run(printer, &dir),
        Command::Version => version::run(printer, global.output),
        Command::Vm(vm_args::Verb::Create(create)) => {
            // A manifest is read and understood before anybody is asked.
            let requests = vm::create::requests(&create, &global.project)?;
            let session = Session::open(global, printer)?;
            Box::pin(vm::create::run(session, *create, requests)).await
        }
        Command::Image(image_args::Verb::Create(create)) => {
            let spec = image::create::spec(&create)?;
            image::create::run(Session::open(global, printer)?, create, spec).await
        }
        Command::Vm(verb) => {
            let session = Session::open(global, printer)?;
            match verb {
                vm_args::Verb::Create(_) => unreachable!("matched above"),
                vm_args::Verb::List(list) => vm::list::run(session, list).await,
                vm_args::Verb::Show { name, revision: None } => vm::show::run(session, name).await,
                vm_args::Verb::Show { name, revision: Some(revision) } => {
                    history::at(session, v1::ObjectKind::Vm, name, revision).await
                }
                vm_args::Verb::Adopt { uid, host, request_id } => vm::adopt::run(session, uid, host, request_id).await,
                vm_args::Verb::Start(change) => vm::start::run(session, change).await,
                vm_args::Verb::Stop(change) => vm::stop::run(session, change).await,
                vm_args::Verb::Restart(change) => vm::restart::run(session, change).await,
                vm_args::Verb::Reset(change) => vm::reset::run(session, change).await,
                vm_args::Verb::Pause(change) => vm::pause::run(session, change).await,
                vm_args::Verb::Resume(change) => vm::resume::run(session, change).await,
                vm_args::Verb::Delete(change) => vm::delete::run(session, change).await,
                vm_args::Verb::Explain { name } => vm::explain::run(session, name).await,
                vm_args::Verb::Update(update) => Box::pin(vm::update::run(session, *update)).await,
                vm_args::Verb::Label(label) => vm::label::run(session, label).await,
                vm_args::Verb::Console(console) => vm::console::run(session, console).await,
                vm_args::Verb::Watch(watch) => vm::watch::run(session, watch).await,
            }
        }
        Command::Host(verb) => {
            let session = Session::open(global, printer)?;
            match verb {
                HostVerb::List => host::list::run(session).await,
                HostVerb::Show { name } => host::show::run(session, name).await,
                HostVerb::Capacity { name } => host::capacity::run(session, name).await,
                HostVerb::Update(update) => Box::pin(host::update::run(session, *update)).await,
                HostVerb::Cordon(named) => host::update::cordon(session, named, true).await,
                HostVerb::Uncordon(named) => host::update::cordon(session, named, false).await,
                HostVerb::ConfirmDead { host: named, yes_i_am_sure } => {
                    host::confirm_dead::run(session, named, yes_i_am_sure).await
                }
                HostVerb::Remove { host: named, never_returns } => {
                    host::remove::run(session, named, never_returns).await
                }
                HostVerb::Orphans => host::orphans::run(session).await,
                HostVerb::RemoveOrphan { host, uid, yes, request_id } => {
                    host::orphans::remove(session, host, uid, yes, request_id).await
                }
            }
        }
        Command::Image(verb) => {
            let session = Session::open(global, printer)?;
            match verb {
                image_args::Verb::Create(_) => unreachable!("matched above"),
                image_args::Verb::List => image::list::run(session).await,
                image_args::Verb::Show { name } => image::show::run(session, name).await,
                image_args::Verb::Delete { name, request_id } => image::delete::run(session, name, request_id).await,
            }
        }
        Command::InstanceType(verb) => instancetype::run(Session::open(global, printer)?, verb).await,
        Command::Preference(verb) => preference::run(Session::open(global, printer)?, verb).await,
        Command::Capacity(asked) => Box::pin(room::capacity(Session::open(global, printer)?, *asked)).await,
        Command::Proposals => room::proposals(Session::open(global, printer)?).await,
        Command::History(verb) => {
            let session = Session::open(global, printer)?;
            match verb {
                HistoryVerb::Vm(past) => history::of(session, v1::ObjectKind::Vm, past).await,
                HistoryVerb::Host(past) => history::of(session, v1::ObjectKind::Host, past).await,
                HistoryVerb::Image(past) => history::of(session, v1::ObjectKind::Image, past).await,
                HistoryVerb::InstanceType(past) => history::of(session, v1::ObjectKind::InstanceType, past).await,
                HistoryVerb::Preference(past) => history::of(session, v1::ObjectKind::Preference, past).await,
                HistoryVerb::List { since, actor, limit } => history::list(session, since, actor, limit).await,
            }
        }
        Command::Cluster(verb) => Box::pin(cluster::run(global, printer, verb)).await,
    }
}
