//! The past, for operators.

use std::sync::Arc;

use berth_control::{Error, Kind, admit, status};
use berth_model::host::Host;
use berth_model::vm::Vm;
use berth_model::{Name, Revision};
use berth_proto::convert::{host_to_wire, host_use, image_to_wire, vm_to_wire};
use berth_proto::v1;
use berth_proto::v1::get_at_revision_response::Object;
use berth_proto::v1::history_service_server::HistoryService;
use berth_state::Cluster;
use berth_state::history::{self, Asked, NotAt, ObjectKind, Question, Record, Stored};
use tonic::{Request, Response, Status};

use super::{Shared, caller, error};

/// The service.
pub(super) struct Service(pub(super) Shared);

/// Changes in one answer unless fewer are asked for.
const PAGE: usize = 1000;

/// What is asked of the past, as names.
struct Names {
    kind: Option<ObjectKind>,
    project: Name,
    name: Option<Name>,
}

impl Names {
    fn read(kind: i32, project: &str, name: &str) -> Result<Self, Status> {
        let kind = match v1::ObjectKind::try_from(kind) {
            Ok(v1::ObjectKind::Unspecified) => None,
            Ok(v1::ObjectKind::Vm) => Some(ObjectKind::Vm),
            Ok(v1::ObjectKind::Host) => Some(ObjectKind::Host),
            Ok(v1::ObjectKind::Image) => Some(ObjectKind::Image),
            Ok(v1::ObjectKind::InstanceType) => Some(ObjectKind::InstanceType),
            Ok(v1::ObjectKind::Preference) => Some(ObjectKind::Preference),
            Err(_) => return Err(error::missing("a kind that this controller knows")),
        };
        // Only VMs are in projects.
        let project = if kind == Some(ObjectKind::Vm) { project } else { "" };
        let project = admit::project(project).map_err(error::status)?;
        let name = if name.is_empty() { None } else { Some(admit::name("name", name).map_err(error::status)?) };
        Ok(Self { kind, project, name })
    }

    fn object(&self) -> Option<Asked<'_>> {
        Some(Asked { kind: self.kind?, project: &self.project, name: self.name.as_ref()? })
    }
}

fn record_to_wire(record: Record) -> v1::HistoryRecord {
    let Record { revision, at, actor, request, command, kind, project, name, uid, exists, undo } = record;
    let kind = match kind {
        ObjectKind::Vm => v1::ObjectKind::Vm,
        ObjectKind::Host => v1::ObjectKind::Host,
        ObjectKind::Image => v1::ObjectKind::Image,
        ObjectKind::InstanceType => v1::ObjectKind::InstanceType,
        ObjectKind::Preference => v1::ObjectKind::Preference,
    };
    v1::HistoryRecord {
        revision: revision.0,
        at_ms: at.as_millis(),
        actor: actor.to_string(),
        request_id: request.map(|id| id.to_string()).unwrap_or_default(),
        command,
        kind: kind.into(),
        project: project.to_string(),
        name: name.to_string(),
        uid: uid.to_string(),
        exists,
        previous_revision: undo.map(|undo| undo.revision.0).unwrap_or_default(),
    }
}

/// Looking through the whole history takes some tens of milliseconds: it is kept off the threads that serve others.
async fn look<T: Send + 'static>(
    view: &Arc<Cluster>,
    question: impl FnOnce(&Cluster) -> Result<T, NotAt> + Send + 'static,
) -> Result<T, Status> {
    let view = Arc::clone(view);
    let looked = tokio::task::spawn_blocking(move || question(&view)).await;
    match looked {
        Ok(found) => found.map_err(|why| error::status(why.into())),
        Err(failed) => {
            let mut problem = Error::new(Kind::Internal, "BE-9001", "the history could not be looked through");
            problem.context = Some(failed.to_string());
            Err(error::status(problem))
        }
    }
}

#[tonic::async_trait]
impl HistoryService for Service {
    async fn list_history(
        &self,
        request: Request<v1::ListHistoryRequest>,
    ) -> Result<Response<v1::ListHistoryResponse>, Status> {
        let request = request.into_inner();
        let names = Names::read(request.kind, &request.project, &request.name)?;
        if names.name.is_some() && names.kind.is_none() {
            return Err(error::missing("kind, which a name needs,"));
        }
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let limit = match request.limit as usize {
            0 => PAGE,
            limit => limit.min(PAGE),
        };
        let (after, until) = (request.since_revision.map(Revision), request.until_revision.map(Revision));
        let (found, more) = look(&view, move |view| {
            let actor = (!request.actor.is_empty()).then_some(&*request.actor);
            history::list(view, &Question { object: names.object(), kind: names.kind, actor, after, until }, limit)
        })
        .await?;
        Ok(Response::new(v1::ListHistoryResponse {
            records: found.into_iter().map(record_to_wire).collect(),
            more,
            revision: view.revision.0,
            oldest_revision: view.history.oldest().0,
        }))
    }

    async fn get_at_revision(
        &self,
        request: Request<v1::GetAtRevisionRequest>,
    ) -> Result<Response<v1::GetAtRevisionResponse>, Status> {
        let request = request.into_inner();
        let names = Names::read(request.kind, &request.project, &request.name)?;
        let (Some(kind), Some(name)) = (names.kind, names.name.clone()) else {
            return Err(error::missing("kind or name"));
        };
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let revision = Revision(request.at_revision);
        let (then, around) = look(&view, move |view| {
            let Some(asked) = names.object() else { return Ok((None, Cluster::default())) };
            let then = history::at(view, &asked, revision)?;
            let around = match then.as_ref().map(|then| &then.object) {
                Some(Stored::Vm(vm)) => surroundings(view, vm, revision)?,
                _ => Cluster::default(),
            };
            Ok((then, around))
        })
        .await?;
        let Some(then) = then else {
            let message = format!("there was no {} {name:?} at revision {revision}", kind.name());
            let missing = Error::new(Kind::NotFound, "BE-2002", message);
            return Err(error::status(missing.hint("'berth history' shows when it came and went")));
        };
        let object = match then.object {
            Stored::Vm(vm) => Object::Vm(vm_to_wire(&vm, &status::derive(&around, &vm))),
            Stored::Host(host) => {
                let used = host_use(&host, std::iter::empty::<&Vm>(), std::iter::empty());
                Object::Host(host_to_wire(&host, &host.conditions, used))
            }
            Stored::Image(image) => Object::Image(image_to_wire(&image, std::iter::empty::<&Host>())),
            Stored::InstanceType(held) => Object::InstanceType((&*held).into()),
            Stored::Preference(held) => Object::Preference((&*held).into()),
        };
        Ok(Response::new(v1::GetAtRevisionResponse {
            object: Some(object),
            by: then.by.map(record_to_wire),
            ended: then.ended.map(record_to_wire),
            revision: view.revision.0,
        }))
    }
}

/// The state with the VM's host as it was then: a status follows from the two.
fn surroundings(view: &Cluster, vm: &Vm, revision: Revision) -> Result<Cluster, NotAt> {
    let mut around = view.clone();
    let Some(host) = vm.assignment.as_ref().and_then(|held| view.hosts.get(&held.host)) else { return Ok(around) };
    let (project, name) = (Name::default_project(), host.meta.name.clone());
    let asked = Asked { kind: ObjectKind::Host, project: &project, name: &name };
    if let Some(then) = history::at(view, &asked, revision)?
        && let Stored::Host(host) = then.object
    {
        around.hosts.insert(host.uid(), Arc::new(*host));
    }
    Ok(around)
}
