//! [`Control`]: the one handle behind every door.

use std::sync::Arc;
use std::time::Duration;

use berth_model::host::Host;
use berth_model::instancetype::PreferenceSpec;
use berth_model::vm::{Vm, VmStatus};
use berth_model::{Actor, Meta, RequestId, Revision, VmUid};
use berth_state::requests::Verdict;
use berth_state::{Applied, Batch, Body, Cluster, Command, Outcome, Rejection};

use crate::admit::{self, CreateImage, CreateVm, HostTarget, OrphanTarget, Target, UpdateHost, UpdateLabels, UpdateVm};
use crate::error::{Error, Kind};
use crate::ports::{Consensus, ConsensusError, Environment, Leadership, Seal};
use crate::publish::Views;
use crate::status;

/// How fresh an answer must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// It shows everything that was acknowledged before the question.
    #[default]
    Linearizable,
    /// The same, confirmed by the leader's lease instead of a majority's word: right as long as the members' clocks run
    /// evenly.
    Lease,
    /// What this member has applied; answered even without a majority.
    Stale,
}

/// Who asks, and under which name for the request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Who.
    pub actor: Actor,
    /// The client's request id and the hash of the request's body.
    pub request: Option<(RequestId, [u8; 32])>,
}

/// The answer to a change.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The state's revision after it.
    pub revision: Revision,
    /// What it did.
    pub outcome: Outcome,
    /// The view in which it shows.
    pub view: Arc<Cluster>,
}

impl Answer {
    /// The VM that it concerned, with its status; none if it is gone.
    pub fn vm(&self) -> Option<(Arc<Vm>, VmStatus)> {
        match self.outcome {
            Outcome::Vm(uid) => self.view.vms.get(&uid).map(|vm| (Arc::clone(vm), status::derive(&self.view, vm))),
            Outcome::Done | Outcome::Image(_) | Outcome::Host(_) => None,
        }
    }

    /// The host that it concerned; none if it is gone.
    pub fn host(&self) -> Option<&Arc<Host>> {
        match self.outcome {
            Outcome::Host(uid) => self.view.hosts.get(&uid),
            Outcome::Done | Outcome::Image(_) | Outcome::Vm(_) => None,
        }
    }
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(crate) consensus: Arc<dyn Consensus>,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) seal: Arc<dyn Seal>,
    pub(crate) views: Views,
    pub(crate) heard: crate::hosts::Heard,
    pub(crate) sessions: crate::hosts::Sessions,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// How long an answer waits for this member to apply what the leader committed. A member that is further behind
/// than this says so rather than showing an older state.
const CATCH_UP: Duration = Duration::from_secs(10);

impl Control {
    /// Joins the parts.
    pub fn new(
        consensus: Arc<dyn Consensus>,
        environment: Arc<dyn Environment>,
        seal: Arc<dyn Seal>,
        views: Views,
    ) -> Self {
        Self {
            consensus,
            environment,
            seal,
            views,
            heard: crate::hosts::Heard::default(),
            sessions: crate::hosts::Sessions::default(),
        }
    }

    /// The state, as fresh as asked.
    pub async fn view(&self, consistency: Consistency) -> Result<Arc<Cluster>, Error> {
        match consistency {
            Consistency::Linearizable => self.consensus.read_barrier().await?,
            Consistency::Lease => self.consensus.lease_barrier().await?,
            Consistency::Stale => {}
        }
        if let Some(why) = self.consensus.halted() {
            return Err(ConsensusError::Differs(why).into());
        }
        Ok(self.now_applied())
    }

    /// What this member has applied.
    pub fn now_applied(&self) -> Arc<Cluster> {
        Arc::clone(&self.views.cluster.borrow())
    }

    /// Recent events, for watches.
    pub fn window(&self) -> &crate::window::Window {
        &self.views.window
    }

    /// Who leads.
    pub fn leadership(&self) -> Leadership {
        self.consensus.leadership().borrow().clone()
    }

    /// Creates a VM.
    pub async fn create_vm(&self, caller: &Caller, request: &CreateVm) -> Result<Answer, Error> {
        let random = self.environment.random();
        self.change(caller, |view| admit::create_vm(view, request, random, &*self.seal)).await
    }

    /// The VM that a request would create, and the view in which it would; nothing is written.
    pub async fn would_create_vm(&self, request: &CreateVm) -> Result<(Vm, Arc<Cluster>), Error> {
        let view = self.view(Consistency::Linearizable).await?;
        match admit::create_vm(&view, request, self.environment.random(), &*self.seal)? {
            Body::CreateVm { uid, project, name, labels, annotations, spec } => {
                let meta = Meta { labels, annotations, ..Meta::new(project, name, uid.0, self.environment.now()) };
                Ok((Vm::new(meta, *spec), view))
            }
            other => Err(Error::new(Kind::Internal, "BE-9001", format!("a VM was admitted as {}", other.name()))),
        }
    }

    /// Changes what is asked of a VM: anything while it has no berth, afterwards its rules.
    pub async fn update_vm(&self, caller: &Caller, target: &Target, request: &UpdateVm) -> Result<Answer, Error> {
        self.change(caller, |view| admit::update_vm(view, target, request)).await
    }

    /// Changes a host's place, marks or promises.
    pub async fn update_host(
        &self,
        caller: &Caller,
        target: &HostTarget,
        request: &UpdateHost,
    ) -> Result<Answer, Error> {
        self.change(caller, |view| admit::update_host(view, target, request)).await
    }

    /// Takes the word that a host is dead: its VMs lose their berths there.
    pub async fn confirm_dead(&self, caller: &Caller, target: &HostTarget, name_again: &str) -> Result<Answer, Error> {
        self.change(caller, |view| admit::confirm_dead(view, target, name_again)).await
    }

    /// Forgets a host that nothing is bound to.
    pub async fn remove_host(
        &self,
        caller: &Caller,
        target: &HostTarget,
        never_returns: bool,
    ) -> Result<Answer, Error> {
        self.change(caller, |view| admit::remove_host(view, target, never_returns)).await
    }

    /// Makes an instance type known; memory in bytes.
    pub async fn create_instance_type(
        &self,
        caller: &Caller,
        name: &str,
        cpus: u32,
        memory: u64,
    ) -> Result<Answer, Error> {
        let random = self.environment.random();
        self.change(caller, |view| admit::create_instance_type(view, name, cpus, memory, random)).await
    }

    /// Forgets an instance type.
    pub async fn delete_instance_type(&self, caller: &Caller, name: &str) -> Result<Answer, Error> {
        self.change(caller, |view| admit::delete_instance_type(view, name)).await
    }

    /// Makes a preference known.
    pub async fn create_preference(
        &self,
        caller: &Caller,
        name: &str,
        wishes: PreferenceSpec,
    ) -> Result<Answer, Error> {
        let random = self.environment.random();
        self.change(caller, |view| admit::create_preference(view, name, wishes, random)).await
    }

    /// Forgets a preference.
    pub async fn delete_preference(&self, caller: &Caller, name: &str) -> Result<Answer, Error> {
        self.change(caller, |view| admit::delete_preference(view, name)).await
    }

    /// Starts a VM.
    pub async fn start_vm(&self, caller: &Caller, target: &Target) -> Result<Answer, Error> {
        self.change_vm(caller, target, |vm, expect| Body::StartVm { vm, expect }).await
    }

    /// Stops a VM, with or without time for its guest.
    pub async fn stop_vm(&self, caller: &Caller, target: &Target, force: bool) -> Result<Answer, Error> {
        self.change_vm(caller, target, |vm, expect| Body::StopVm { vm, force, expect }).await
    }

    /// Restarts a VM, with or without time for its guest.
    pub async fn restart_vm(&self, caller: &Caller, target: &Target, force: bool) -> Result<Answer, Error> {
        self.change_vm(caller, target, |vm, expect| Body::RestartVm { vm, force, expect }).await
    }

    /// Resets a VM that runs.
    pub async fn reset_vm(&self, caller: &Caller, target: &Target) -> Result<Answer, Error> {
        self.change_vm(caller, target, |vm, expect| Body::ResetVm { vm, expect }).await
    }

    /// Holds a VM's guest code.
    pub async fn pause_vm(&self, caller: &Caller, target: &Target) -> Result<Answer, Error> {
        self.change_vm(caller, target, |vm, expect| Body::PauseVm { vm, expect }).await
    }

    /// Lets a VM that is paused go on.
    pub async fn resume_vm(&self, caller: &Caller, target: &Target) -> Result<Answer, Error> {
        self.change_vm(caller, target, |vm, expect| Body::ResumeVm { vm, expect }).await
    }

    /// Sets and removes labels of a VM.
    pub async fn update_labels(
        &self,
        caller: &Caller,
        target: &Target,
        request: &UpdateLabels,
    ) -> Result<Answer, Error> {
        self.change(caller, |view| admit::update_labels(view, target, request)).await
    }

    /// Deletes a VM: it is gone when its host reports so.
    pub async fn delete_vm(&self, caller: &Caller, target: &Target) -> Result<Answer, Error> {
        self.change_vm(caller, target, |vm, expect| Body::DeleteVm { vm, expect }).await
    }

    /// Makes an image known.
    pub async fn create_image(&self, caller: &Caller, request: &CreateImage) -> Result<Answer, Error> {
        let random = self.environment.random();
        self.change(caller, |view| admit::create_image(view, request, random)).await
    }

    /// Forgets an image.
    pub async fn delete_image(&self, caller: &Caller, name: &str) -> Result<Answer, Error> {
        self.change(caller, |view| {
            let name = admit::name("image name", name)?;
            if view.images.contains_key(&name) {
                Ok(Body::DeleteImage { name })
            } else {
                Err(Error::new(Kind::NotFound, "BE-2002", format!("there is no image {name:?}"))
                    .hint("'berth image list' shows what is there"))
            }
        })
        .await
    }

    /// Makes a VM of an orphan on this host.
    pub async fn adopt_orphan(&self, caller: &Caller, target: &OrphanTarget) -> Result<Answer, Error> {
        self.change(caller, |view| {
            let (host, vm) = admit::find_orphan(view, target)?;
            Ok(Body::AdoptOrphan { host, vm, expect: target.expect() })
        })
        .await
    }

    /// Has an orphan on this host removed with its disk.
    pub async fn remove_orphan(&self, caller: &Caller, target: &OrphanTarget) -> Result<Answer, Error> {
        self.change(caller, |view| {
            let (host, vm) = admit::find_orphan(view, target)?;
            Ok(Body::RemoveOrphan { host, vm, expect: target.expect() })
        })
        .await
    }

    async fn change_vm(
        &self,
        caller: &Caller,
        target: &Target,
        body: impl Fn(VmUid, berth_state::Expect) -> Body,
    ) -> Result<Answer, Error> {
        self.change(caller, |view| Ok(body(admit::find_vm(view, target)?.uid(), target.expect()))).await
    }

    /// Admits, proposes, and waits until this member shows the result.
    async fn change(&self, caller: &Caller, admit: impl Fn(&Cluster) -> Result<Body, Error>) -> Result<Answer, Error> {
        // The leader shows everything that was acknowledged. Another member may lag: it asks first, or a name could
        // mean an object that is gone.
        let mut fresh = !self.leadership().here;
        if fresh {
            self.consensus.read_barrier().await?;
        }
        let body = loop {
            let view = self.now_applied();
            if let Some(answer) = self.remembered(&view, caller)? {
                return self.answer(answer).await;
            }
            let admitted = match view.info {
                Some(_) => admit(&view),
                None => Err(Rejection::NotBootstrapped.into()),
            };
            match admitted {
                Ok(body) => break body,
                Err(refusal) if fresh => return Err(refusal),
                // It may lead no longer without knowing: a refusal is given only from a linearizable view.
                Err(_) => {
                    self.consensus.read_barrier().await?;
                    fresh = true;
                }
            }
        };
        let command = Command { request: caller.request, actor: caller.actor.clone(), body };
        let batch = Batch { at: self.environment.now(), commands: vec![command] };
        let mut answers = self.consensus.propose(&batch).await?;
        match answers.pop() {
            Some(applied) => self.answer(applied).await,
            None => Err(Error::new(Kind::Internal, "BE-9001", "the log gave no answer to a command")),
        }
    }

    /// The answer that was given before, if this request is a repetition.
    fn remembered(&self, view: &Cluster, caller: &Caller) -> Result<Option<Applied>, Error> {
        let Some((id, body)) = caller.request else { return Ok(None) };
        let now = self.environment.now();
        match view.requests.look_up(id, &body, &caller.actor, now, view.last_at.max(now)) {
            Verdict::New => Ok(None),
            Verdict::Seen(answer) => Ok(Some(answer)),
            Verdict::Refused(rejection) => Err(rejection.into()),
        }
    }

    async fn answer(&self, applied: Applied) -> Result<Answer, Error> {
        let outcome = applied.result.map_err(Error::from)?;
        let mut views = self.views.cluster.clone();
        let caught_up = views.wait_for(|view| view.revision >= applied.revision);
        match tokio::time::timeout(CATCH_UP, caught_up).await {
            Ok(Ok(view)) => Ok(Answer { revision: applied.revision, outcome, view: Arc::clone(&view) }),
            Ok(Err(_)) => {
                Err(Error::new(Kind::Unavailable, "BE-5003", "this controller is going down; the change was made"))
            }
            Err(_) => Err(Error::new(
                Kind::Unavailable,
                "BE-5004",
                format!(
                    "the change was made at revision {}, this controller is too far behind to show it",
                    applied.revision
                ),
            )
            .hint("ask another controller")),
        }
    }
}

#[cfg(test)]
mod tests;
