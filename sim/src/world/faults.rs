//! What goes wrong, and how it goes right again.

use berth_host::agent::Agent;
use berth_model::HostUid;
use berth_model::vm::{DomainState, StopReason};
use berth_model::{Incarnation, Name, Uid};

use super::member::Member;
use super::{Event, MEMBERS, World, shapes};
use crate::plan::{Fault, FaultKind};
use crate::tally::Group;

/// Whom a fault hit, and what is needed to end it.
#[derive(Debug)]
pub(crate) enum Struck {
    /// Nobody it could end for.
    Nobody,
    /// A controller.
    Member(usize),
    /// All controllers.
    AllMembers,
    /// A controller's clock, by so much.
    Clock(usize, i64),
    /// A host.
    Host(usize),
    /// A host's data, which was this.
    Data(usize, HostUid, Vec<u8>),
    /// A second host beside another.
    Twin(usize, usize),
}

/// How many backups are kept.
const BACKUPS: usize = 5;

impl World {
    /// Keeps the state of this moment, for a restore.
    pub(crate) fn back_up(&mut self) {
        if self.front().info.is_some() {
            let cluster = self.front().clone();
            let applied = self.members[..MEMBERS].iter().map(|member| member.applied).max().unwrap_or(0);
            self.backups.push((applied, cluster));
            if self.backups.len() > BACKUPS {
                self.backups.remove(0);
            }
        }
    }

    pub(super) fn strike(&mut self, number: usize) {
        let fault = self.faults[number];
        let Some(struck) = self.hit(fault) else { return };
        self.witness.count(Group::Fault, fault.kind.name());
        self.witness.event(format_args!("FAULT {} for {} ms: {struck:?}", fault.kind.name(), fault.lasts));
        self.struck.insert(number, struck);
        self.after(fault.lasts, Event::Relief(number));
    }

    /// The host that a fault hits, if it can: one that is on.
    fn victim(&self, fault: Fault) -> Option<usize> {
        let on: Vec<_> =
            (0..self.hosts.len()).filter(|host| self.hosts[*host].is_on && !self.hosts[*host].is_twin).collect();
        let at = usize::try_from(fault.whom % (on.len().max(1) as u64)).unwrap_or(0);
        on.get(at).copied()
    }

    fn hit(&mut self, fault: Fault) -> Option<Struck> {
        let some_member = usize::try_from(fault.whom % 3).unwrap_or(0);
        Some(match fault.kind {
            FaultKind::LeaderCrash => {
                let leader = self.log.leader?;
                self.crash_member(leader);
                Struck::Member(leader)
            }
            FaultKind::LeaderIsolated => {
                let leader = self.log.leader?;
                self.members[leader].isolated += 1;
                self.reconsider();
                // What parts controllers seldom spares hosts: some dial anew, and whom they reach may be the leader of before.
                for host in 0..self.hosts.len() {
                    if self.dice.percent(50) {
                        let pause = self.dice.within(200..6000);
                        self.after(pause, Event::Hiccup(host));
                    }
                }
                Struck::Member(leader)
            }
            FaultKind::FollowerCrash => {
                let follower = (some_member..some_member + MEMBERS)
                    .map(|member| member % MEMBERS)
                    .find(|member| self.log.leader != Some(*member) && self.members[*member].is_up())?;
                self.crash_member(follower);
                Struck::Member(follower)
            }
            FaultKind::Blackout => {
                (0..MEMBERS).for_each(|member| self.crash_member(member));
                Struck::AllMembers
            }
            FaultKind::Transfer => {
                self.log.leader?;
                self.transfer();
                Struck::Nobody
            }
            FaultKind::LostAnswers => {
                self.lost_answers += 1;
                Struck::Nobody
            }
            FaultKind::Laggard => {
                self.members[some_member].laggard += 1;
                Struck::Member(some_member)
            }
            FaultKind::KeyMissing => {
                let member = self.log.leader.unwrap_or(some_member);
                self.members[member].keyless += 1;
                // A set without the VMs whose secrets cannot be opened makes hosts forget what they know of their runs.
                self.witness.ends_forgotten(None);
                self.bounce(member);
                Struck::Member(member)
            }
            FaultKind::ClockStep => {
                let hour = 3_600_000;
                let by = self.dice.pick(&[-26 * hour, -hour, -20_000, 20_000, hour / 4, 30 * hour])?;
                self.members[some_member].skew += by;
                Struck::Clock(some_member, by)
            }
            FaultKind::Twin => {
                let host = self.victim(fault)?;
                if self.hosts.iter().any(|host| host.is_twin) {
                    return None;
                }
                let (name, shape): (Name, _) = (self.hosts[host].name.clone(), self.hosts[host].shape);
                let twin = self.install(name, shape, true);
                Struck::Twin(host, twin)
            }
            FaultKind::Restore => self.restore()?,
            FaultKind::Revenant => self.wake_revenant(some_member)?,
            FaultKind::Cut
            | FaultKind::CutUp
            | FaultKind::CutDown
            | FaultKind::SlowNetwork
            | FaultKind::DaemonKilled
            | FaultKind::LedgerMissing
            | FaultKind::PowerCut
            | FaultKind::ReturnsSmaller
            | FaultKind::SlowDisk
            | FaultKind::HypervisorAway
            | FaultKind::DomainsForgotten
            | FaultKind::EventsLost
            | FaultKind::StepsFail
            | FaultKind::GuestCrash
            | FaultKind::GuestShutdown
            | FaultKind::GuestPanic
            | FaultKind::DeafGuests => self.hit_host(fault)?,
        })
    }

    fn hit_host(&mut self, fault: Fault) -> Option<Struck> {
        let number = self.victim(fault)?;
        let wall = self.wall();
        let host = &mut self.hosts[number];
        match fault.kind {
            FaultKind::Cut => (host.cut_up, host.cut_down) = (host.cut_up + 1, host.cut_down + 1),
            FaultKind::CutUp => host.cut_up += 1,
            FaultKind::CutDown => host.cut_down += 1,
            FaultKind::SlowNetwork => host.slow_network += 1,
            FaultKind::SlowDisk => host.slow_disk += 1,
            FaultKind::EventsLost => host.events_lost += 1,
            FaultKind::StepsFail => host.steps_fail += 1,
            FaultKind::DeafGuests => host.deaf += 1,
            FaultKind::HypervisorAway => {
                host.away += 1;
                host.machine.set_reachable(false);
            }
            FaultKind::DaemonKilled => {
                host.agent.as_ref()?;
                self.kill_daemon(number);
                self.start_daemon_soon(number);
            }
            FaultKind::LedgerMissing => {
                if host.ledger.is_empty()
                    || self.struck.values().any(|struck| matches!(struck, Struck::Data(held, ..) if *held == number))
                {
                    return None;
                }
                self.kill_daemon(number);
                let uid = HostUid(Uid::from_bits(self.dice.wide()));
                self.homes.insert(uid, number);
                let host = &mut self.hosts[number];
                let (old, data) = (std::mem::replace(&mut host.uid, uid), std::mem::take(&mut host.ledger));
                self.start_daemon_soon(number);
                return Some(Struck::Data(number, old, data));
            }
            FaultKind::PowerCut => self.lose_power(number),
            FaultKind::ReturnsSmaller => {
                if host.is_smaller {
                    return None;
                }
                self.lose_power(number);
                let host = &mut self.hosts[number];
                host.is_smaller = true;
                host.machine.refit(shapes::halved(host.shape));
                self.power_up(number);
            }
            FaultKind::DomainsForgotten => {
                let known: Vec<_> = host.machine.domains().keys().copied().collect();
                for vm in known {
                    if self.dice.percent(40) {
                        self.touch(number, vm, |machine| machine.forget(vm));
                    }
                }
                self.witness.ends_forgotten(Some(number));
            }
            FaultKind::GuestCrash | FaultKind::GuestShutdown | FaultKind::GuestPanic => {
                let known: Vec<_> = host.machine.domains().keys().copied().collect();
                let active: Vec<_> = known.into_iter().filter(|vm| host.machine.is_active(*vm)).collect();
                let vm = self.dice.pick(&active)?;
                let domain = &self.hosts[number].machine.domains()[&vm];
                let (state, stamp, run) = (domain.state, domain.spec.mark.stamp, domain.spec.mark.restart_count);
                let is_noted = self.has_noted_run(number, vm);
                match fault.kind {
                    FaultKind::GuestPanic => self.touch(number, vm, |machine| machine.guest_panics(vm, Some(wall))),
                    // What is held does nothing by itself.
                    FaultKind::GuestShutdown if state != DomainState::Running => return None,
                    FaultKind::GuestShutdown => {
                        self.touch(number, vm, |machine| machine.guest_ends(vm, StopReason::GuestShutdown, Some(wall)));
                        // A host that has not yet noted that it runs may take its end for that of an earlier run.
                        if is_noted {
                            self.witness.shut_itself_down(number, vm, stamp, run);
                        }
                    }
                    _ => self.touch(number, vm, |machine| machine.guest_ends(vm, StopReason::Crashed, Some(wall))),
                }
            }
            FaultKind::LeaderCrash
            | FaultKind::LeaderIsolated
            | FaultKind::FollowerCrash
            | FaultKind::Blackout
            | FaultKind::Transfer
            | FaultKind::LostAnswers
            | FaultKind::Laggard
            | FaultKind::KeyMissing
            | FaultKind::ClockStep
            | FaultKind::Twin
            | FaultKind::Restore
            | FaultKind::Revenant => return None,
        }
        Some(Struck::Host(number))
    }

    pub(super) fn relieve(&mut self, number: usize) {
        let Some(struck) = self.struck.remove(&number) else { return };
        let Fault { kind, lasts, .. } = self.faults[number];
        self.witness.event(format_args!("relief of {}", kind.name()));
        match struck {
            Struck::Nobody => {
                if kind == FaultKind::LostAnswers {
                    self.lost_answers -= 1;
                }
            }
            Struck::Member(member) => self.relieve_member(kind, member),
            Struck::AllMembers => (0..MEMBERS).for_each(|member| self.restart_member(member)),
            Struck::Clock(member, by) => self.members[member].skew -= by,
            Struck::Host(host) => self.relieve_host(kind, host, lasts),
            // Without its data it joined as a new host, before the old one was known: it stays that.
            Struck::Data(host, ..) if self.front().hosts.contains_key(&self.hosts[host].uid) => {}
            Struck::Data(host, uid, mut data) => {
                self.kill_daemon(host);
                if self.dice.percent(30) {
                    // What is put back is a copy of some moments before.
                    let kept = data.len() - self.dice.index(data.len() / 4 + 1);
                    data.truncate(super::host::whole_records(&data[..kept]));
                    self.witness.count(Group::Noted, "older data put back");
                }
                (self.hosts[host].uid, self.hosts[host].ledger) = (uid, data);
                self.start_daemon_soon(host);
            }
            Struck::Twin(host, twin) => {
                // The one that the cluster does not know is switched off.
                let known = self.front().host_by_name(&self.hosts[twin].name).map(|known| known.uid());
                let goes = if known == Some(self.hosts[twin].uid) { host } else { twin };
                if self.hosts[goes].is_on {
                    self.lose_power(goes);
                }
                (self.hosts[host].is_twin, self.hosts[twin].is_twin) = (goes == host, goes == twin);
            }
        }
    }

    fn relieve_member(&mut self, kind: FaultKind, member: usize) {
        match kind {
            FaultKind::LeaderIsolated => {
                self.members[member].isolated -= 1;
                self.rejoin(member);
                self.reconsider();
            }
            FaultKind::Laggard => {
                self.members[member].laggard -= 1;
                let upto = self.log.committed();
                self.after(1, Event::CatchUp { member, upto });
            }
            FaultKind::KeyMissing => {
                self.members[member].keyless -= 1;
                self.witness.ends_forgotten(None);
                self.bounce(member);
            }
            FaultKind::Revenant => {
                let open: Vec<_> = self.members[MEMBERS].sessions.keys().copied().collect();
                for line in open {
                    self.end_session(MEMBERS, line, None);
                }
                self.members.truncate(MEMBERS);
                self.revenant_at = None;
                self.restart_member(member);
            }
            _ => self.restart_member(member),
        }
    }

    fn relieve_host(&mut self, kind: FaultKind, number: usize, lasted: u64) {
        let host = &mut self.hosts[number];
        match kind {
            FaultKind::Cut => (host.cut_up, host.cut_down) = (host.cut_up - 1, host.cut_down - 1),
            FaultKind::CutUp => host.cut_up -= 1,
            FaultKind::CutDown => host.cut_down -= 1,
            FaultKind::SlowNetwork => host.slow_network -= 1,
            FaultKind::SlowDisk => host.slow_disk -= 1,
            FaultKind::EventsLost => host.events_lost -= 1,
            FaultKind::StepsFail => host.steps_fail -= 1,
            FaultKind::DeafGuests => host.deaf -= 1,
            FaultKind::HypervisorAway => {
                host.away -= 1;
                host.machine.set_reachable(host.away == 0);
            }
            FaultKind::PowerCut => self.power_up(number),
            FaultKind::ReturnsSmaller => {
                let was_on = host.is_on;
                if was_on {
                    self.lose_power(number);
                }
                let host = &mut self.hosts[number];
                host.is_smaller = false;
                host.machine.refit(host.shape.inventory());
                if was_on {
                    self.power_up(number);
                }
            }
            _ => {}
        }
        if matches!(kind, FaultKind::Cut | FaultKind::CutUp | FaultKind::CutDown) {
            self.resume(number, lasted);
        }
    }

    /// A controller dies and is started again at once.
    fn bounce(&mut self, member: usize) {
        self.crash_member(member);
        self.restart_member(member);
    }

    /// All controllers are stopped, an older state is put back, and they are started again.
    fn restore(&mut self) -> Option<Struck> {
        let at = self.dice.index(self.backups.len().max(1));
        let (index, backup) = self.backups.get(at).cloned()?;
        let present = self.front().clone();
        let incarnation = present.info?.incarnation;
        let term = self.log.term;
        (0..MEMBERS).for_each(|member| self.crash_member(member));
        let (now, random) = (self.wall(), self.dice.next());
        let renewed = berth_state::restore::renew(&backup, now, random, Incarnation(incarnation.0 + 1));
        self.begin_anew();
        let committed = self.log.committed();
        for member in &mut self.members[..MEMBERS] {
            member.cluster = renewed.clone();
            member.applied = committed;
        }
        self.witness.put_back(index);
        self.backups.clear();
        self.restored_at = self.now;
        self.past = Some((present, term));
        for member in 0..MEMBERS {
            self.restart_member(member);
        }
        Some(Struck::Nobody)
    }

    /// A controller of the time before a restore is switched on again, once all hosts have heard of the restore: before that
    /// nobody could tell.
    fn wake_revenant(&mut self, seat: usize) -> Option<Struck> {
        let incarnation = self.front().info?.incarnation;
        let has_heard = |agent: &Agent| agent.ledger().cluster().is_some_and(|(_, heard, _)| heard == incarnation);
        let all_have = self.hosts.iter().all(|host| host.is_twin || host.agent.as_ref().is_some_and(has_heard));
        let (past, term) = self.past.clone().filter(|_| all_have && self.members.len() == MEMBERS)?;
        self.crash_member(seat);
        self.members.push(Member::revenant(past, term + 1));
        self.revenant_at = Some(seat);
        // The network hiccups, and everybody dials anew.
        for member in 0..MEMBERS {
            let open: Vec<_> = self.members[member].sessions.keys().copied().collect();
            for line in open {
                self.end_session(member, line, None);
            }
        }
        Some(Struck::Member(seat))
    }
}
