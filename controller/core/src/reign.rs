//! What a reigning leader decides, free of I/O: it looks at the state and at who was heard of, and says what to propose.
//!
//! [`crate::leader`] feeds it and proposes, and so does the simulation.

use std::collections::BTreeMap;

use berth_model::{Actor, ActorRole, ClusterId, HostUid, Millis, Revision, Timestamp};
use berth_planner::{Budget, Index, Turn};
use berth_state::{Batch, Body, Cluster, Command, PlanningBasis};

use crate::liveness::Table;

/// How often the leader looks at its hosts' heartbeats, and plans even if nothing changed.
pub const TICK: Millis = Millis(1000);

/// Commands in one proposal. The longest are reasons of 16 hosts, some kilobytes each in the worst case: this many always
/// fit into an entry of the log, and a plan that did not fit would be made again for ever.
pub const COMMANDS_AT_ONCE: usize = 50;

/// A look at the hosts' heartbeats.
#[derive(Clone, Debug)]
pub struct Look {
    /// Who was heard of since the last look, and when, by the clock of [`Look::now`].
    pub heard: BTreeMap<HostUid, Millis>,
    /// When the look is taken, by [`crate::Environment::uptime`].
    pub now: Millis,
}

/// One leader's time in office, from the first linearizable read in its term on.
#[derive(Debug)]
pub struct Reign {
    cluster: ClusterId,
    table: Table,
    planning: Planning,
}

impl Reign {
    /// Begins at `now`, by [`crate::Environment::uptime`]. A cluster without identity is given this one.
    pub fn new(cluster: ClusterId, now: Millis) -> Self {
        Self { cluster, table: Table::new(now), planning: Planning::default() }
    }

    /// Whether some VMs that wait have not had their turn yet: the next step should follow without delay.
    pub fn is_midway(&self) -> bool {
        self.planning.is_midway()
    }

    /// What to propose now that the state is this; `look` is given once every [`TICK`]. Nothing to do: empty.
    pub fn step(&mut self, view: &Cluster, look: Option<Look>) -> Vec<Body> {
        if view.info.is_none() {
            return vec![Body::Bootstrap { cluster: self.cluster, version: Cluster::NEWEST_VERSION }];
        }
        let ticked = look.is_some();
        let mut bodies = Vec::new();
        if let Some(Look { heard, now }) = look {
            for (host, heard) in heard {
                self.table.heard(host, heard);
            }
            bodies.extend(self.table.transitions(view, now));
        }
        bodies.extend(self.planning.plan(view, ticked));
        bodies
    }

    /// Something that a step wanted may not have been carried out: it is decided anew from what is there, at the next look.
    pub fn not_proposed(&mut self) {
        self.planning.begin_again();
    }
}

/// Takes the next proposal off what a step wanted; none when nothing is left.
pub fn next_proposal(bodies: &mut Vec<Body>) -> Option<Vec<Body>> {
    let rest = bodies.split_off(bodies.len().min(COMMANDS_AT_ONCE));
    let next = std::mem::replace(bodies, rest);
    (!next.is_empty()).then_some(next)
}

/// What the leader wants, as an entry of the log.
pub fn batch(bodies: Vec<Body>, at: Timestamp) -> Batch {
    let actor = Actor { role: ActorRole::Controller, name: "leader".into() };
    let commands = bodies.into_iter().map(|body| Command { request: None, actor: actor.clone(), body }).collect();
    Batch { at, commands }
}

/// Which of the VMs that wait are planned for next. A round looks at each once.
///
/// Rounds begin at once when there are other hosts, bookings or waiting VMs, and at the next tick when anything else in the
/// state moved: most changes concern no placement, and thousands of VMs may wait.
#[derive(Debug, Default)]
struct Planning {
    /// Where the last whole round began.
    seen: Option<Beginning>,
    /// Where the present round began, and where it goes on.
    midway: Option<(Beginning, Turn)>,
    /// What the planner knows of the cluster from the views before.
    index: Index,
}

/// The state with which a round begins.
#[derive(Debug, Clone)]
struct Beginning {
    revision: Revision,
    basis: PlanningBasis,
}

impl Planning {
    /// Forgets which VMs had their turns.
    fn begin_again(&mut self) {
        (self.seen, self.midway) = (None, None);
    }

    fn is_midway(&self) -> bool {
        self.midway.is_some()
    }

    fn plan(&mut self, view: &Cluster, ticked: bool) -> Vec<Body> {
        let is_planned_for =
            |seen: &Beginning| seen.revision == view.revision || (!ticked && seen.basis.is_that_of(view));
        if self.midway.is_none() && self.seen.as_ref().is_some_and(is_planned_for) {
            return Vec::new();
        }
        let (began, after) = self.midway.take().map_or_else(
            || (Beginning { revision: view.revision, basis: view.planning_basis() }, None),
            |(began, turn)| (began, Some(turn)),
        );
        let plan = berth_planner::plan(view, &mut self.index, after, Budget::default());
        match plan.next {
            Some(turn) => self.midway = Some((began, turn)),
            None => self.seen = Some(began),
        }
        plan.commands
    }
}

#[cfg(test)]
mod tests {
    use berth_model::Bytes;
    use berth_model::testing::{Machine, cluster_id, host_uid, vm_spec, vm_uid};
    use berth_state::Expect;
    use berth_state::testing::{World, create_vm};

    use super::*;

    #[test]
    fn a_round_begins_at_once_only_when_what_placement_looks_at_has_changed() {
        let mut world = World::new();
        world.done(create_vm(1, vm_spec(2, Bytes::mib(128))));
        world.done(create_vm(2, vm_spec(2, Bytes::mib(128))));
        let mut planning = Planning::default();
        let mut begins = |world: &World, ticked| {
            let before = planning.seen.as_ref().map(|seen| seen.revision);
            planning.plan(&world.cluster, ticked);
            planning.seen.as_ref().map(|seen| seen.revision) != before
        };
        assert!(begins(&world, false), "the first one");
        assert!(!begins(&world, true), "nothing has changed");
        let set = BTreeMap::from([("colour".to_owned(), "red".to_owned())]);
        world.done(Body::SetLabels { vm: vm_uid(1), set, remove: Vec::new(), expect: Expect::default() });
        assert!(!begins(&world, false), "no other VM waits than before");
        assert!(begins(&world, true), "what a VM asks for may have changed");
        world.done(create_vm(3, vm_spec(2, Bytes::mib(128))));
        assert!(begins(&world, false), "another VM waits");
        world.host(1, Machine::cores(8).inventory());
        assert!(begins(&world, false), "there is a host");
    }

    #[test]
    fn what_was_not_proposed_is_decided_again() {
        let mut world = World::new();
        world.host(1, Machine::cores(8).inventory());
        world.done(create_vm(1, vm_spec(2, Bytes::mib(128))));
        let mut reign = Reign::new(cluster_id(), Millis(0));
        let look = || Some(Look { heard: BTreeMap::from([(host_uid(1), Millis(0))]), now: Millis(0) });
        let first = reign.step(&world.cluster, look());
        assert_eq!(first.len(), 1);
        assert!(reign.step(&world.cluster, look()).is_empty(), "it was asked for");
        reign.not_proposed();
        assert_eq!(reign.step(&world.cluster, look()), first);
    }

    #[test]
    fn a_long_list_goes_into_proposals_that_the_log_takes() {
        let one = Body::DeleteImage { name: "tiny".parse().unwrap() };
        let mut bodies = vec![one; 2 * COMMANDS_AT_ONCE + 1];
        let sizes: Vec<_> = std::iter::from_fn(|| next_proposal(&mut bodies)).map(|part| part.len()).collect();
        assert_eq!(sizes, [COMMANDS_AT_ONCE, COMMANDS_AT_ONCE, 1]);
    }
}
