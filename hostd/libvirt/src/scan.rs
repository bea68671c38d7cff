//! What domains there are: every one that carries this cluster's mark, and no other.
//!
//! Foreign domains never leave this module. A mark of ours that cannot be read makes a domain foreign too, with a
//! warning: what is not understood is not touched.

use berth_host::backend::{BackendError, DomainSeen};
use berth_host::float::Floats;
use berth_model::ClusterId;
use berth_model::host::ThreadSet;
use berth_model::vm::{Accelerator, DomainState, StopReason};
use roxmltree::{Document, Node, ParsingOptions};
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt_sys as sys;

use crate::link::{Connection, Link};
use crate::mark::{self, Marked};

/// The longest definition that is read. Ours have a few kilobytes; only metadata that others wrote could be longer.
const LONGEST_XML: usize = 1 << 20;

/// The most elements and attributes that are read of one definition.
const MOST_NODES: u32 = 50_000;

/// A domain of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ours {
    /// What it carries.
    pub marked: Marked,
    /// What runs its code.
    pub accelerator: Accelerator,
    /// Where it may run, if its CPUs float.
    pub floats: Option<Floats>,
}

/// What a domain's definition says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DomainRead {
    /// Not Berth's, or another cluster's, or called by a name that does not fit its mark.
    Foreign,
    /// It carries a mark that cannot be read; to be treated as foreign, and told to people.
    Damaged(String),
    /// Ours.
    Ours(Box<Ours>),
}

/// Reads a definition: whether it is a domain of `cluster`, and whose.
pub fn read_domain(cluster: ClusterId, xml: &str) -> DomainRead {
    if xml.len() > LONGEST_XML {
        return DomainRead::Foreign;
    }
    let options = ParsingOptions { nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let Ok(document) = Document::parse_with_options(xml, options) else { return DomainRead::Foreign };
    let domain = document.root_element();
    let text_of = |name| mark::child(domain, name).and_then(|node| node.text()).unwrap_or_default();
    let marked = match Marked::read(domain) {
        None => return DomainRead::Foreign,
        Some(Err(error)) => return DomainRead::Damaged(error.to_string()),
        Some(Ok(marked)) => marked,
    };
    let vm = marked.mark.vm;
    if marked.mark.cluster != cluster {
        return DomainRead::Foreign;
    }
    if text_of("name") != mark::domain_name(vm) || text_of("uuid") != mark::domain_uuid(cluster, vm) {
        return DomainRead::Damaged(format!("name or UUID are not those of VM {vm}: a copy of its definition?"));
    }
    let accelerator = if domain.attribute("type") == Some("kvm") { Accelerator::Kvm } else { Accelerator::Tcg };
    DomainRead::Ours(Box::new(Ours { marked, accelerator, floats: floats(domain) }))
}

/// Where a domain may run whose CPUs float: such a one is defined with a set of threads for all of its virtual CPUs, and
/// may have been moved since then.
fn floats(domain: Node<'_, '_>) -> Option<Floats> {
    let set = |node: Node<'_, '_>| node.attribute("cpuset")?.parse::<ThreadSet>().ok();
    let defined = set(mark::child(domain, "vcpu")?)?;
    let tune = mark::child(domain, "cputune");
    let pins = |name: &'static str| {
        tune.into_iter().flat_map(|tune| tune.children()).filter(move |node| node.has_tag_name(name)).filter_map(set)
    };
    let moved: ThreadSet = pins("vcpupin").flat_map(|pin| pin.0).collect();
    let helpers = pins("emulatorpin").chain(pins("iothreadpin")).flat_map(|pin| pin.0).collect();
    Some(Floats { vcpus: if moved.is_empty() { defined } else { moved }, helpers })
}

/// The state of a domain in our words, from libvirt's state and reason.
pub fn domain_state(state: u32, reason: i32) -> DomainState {
    let reason = u32::try_from(reason).unwrap_or(0);
    match state {
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => DomainState::Running,
        sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED => DomainState::Paused,
        sys::VIR_DOMAIN_SHUTDOWN => DomainState::Stopping,
        // Only a guest whose kernel gave up is left like this; a QEMU that ended is shut off.
        sys::VIR_DOMAIN_CRASHED => DomainState::Panicked,
        sys::VIR_DOMAIN_SHUTOFF => DomainState::Stopped(match reason {
            sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => StopReason::GuestShutdown,
            sys::VIR_DOMAIN_SHUTOFF_DESTROYED => StopReason::Asked,
            // `DAEMON`: QEMU was gone when libvirtd came back.
            sys::VIR_DOMAIN_SHUTOFF_CRASHED | sys::VIR_DOMAIN_SHUTOFF_DAEMON => StopReason::Crashed,
            sys::VIR_DOMAIN_SHUTOFF_FAILED => StopReason::StartFailed,
            // libvirt forgets the reason when it restarts, and gives none to what was only defined.
            _ => StopReason::Unknown,
        }),
        _ => DomainState::Stopped(StopReason::Unknown),
    }
}

/// Every domain of `cluster`.
pub(crate) fn scan(connection: &Connection, link: &Link, cluster: ClusterId) -> Result<Vec<DomainSeen>, BackendError> {
    let failed = |error: &Error| link.failure("ScanFailed", "listing domains", error);
    let mut seen = Vec::new();
    for domain in connection.list_all_domains(0).map_err(|error| failed(&error))? {
        match look(&domain, cluster) {
            Ok(Some(found)) => seen.push(found),
            Ok(None) => {}
            Err(error) if error.code() == ErrorNumber::NoDomain => {} // gone since it was listed
            Err(error) => return Err(failed(&error)),
        }
    }
    seen.sort_unstable_by_key(|domain| domain.mark.vm);
    Ok(seen)
}

fn look(domain: &Domain, cluster: ClusterId) -> Result<Option<DomainSeen>, Error> {
    // The name is known without asking libvirtd; whatever is not called like ours needs no second look.
    let name = domain.get_name()?;
    if !name.starts_with(mark::NAME_PREFIX) {
        return Ok(None);
    }
    // State first: a domain that stops in between is then seen as running with its mark, and seen again on its event.
    let (state, reason) = domain.get_state()?;
    match read_domain(cluster, &domain.get_xml_desc(0)?) {
        DomainRead::Foreign => Ok(None),
        DomainRead::Damaged(why) => {
            tracing::warn!(
                domain = name,
                why,
                "a domain carries Berth's mark, but it cannot be read; it is left alone"
            );
            Ok(None)
        }
        DomainRead::Ours(ours) => {
            let Ours { marked: Marked { mark, mut degraded, differs }, accelerator, floats } = *ours;
            let state = domain_state(state, reason);
            let is_read_back = differs.is_some();
            degraded.extend(differs.into_iter().flatten());
            Ok(Some(DomainSeen { mark, state, accelerator, since: None, floats, is_read_back, degraded }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::testing::{self, Release};

    fn rendered() -> String {
        let capabilities = testing::capabilities(Release::Libvirt11Qemu10, Accelerator::Tcg);
        let spec = testing::spec(Accelerator::Tcg, &[2], &[(0, 64)]);
        crate::xml::render(&spec, &testing::files(), &capabilities).unwrap().xml
    }

    #[test]
    fn what_was_rendered_is_read_back_as_ours() {
        let read = read_domain("lab".parse().unwrap(), &rendered());
        let DomainRead::Ours(ours) = read else { panic!("{read:?}") };
        assert_eq!(ours.marked.mark, testing::mark());
        assert_eq!((ours.accelerator, ours.floats), (Accelerator::Tcg, None));
    }

    #[test]
    fn where_a_floating_vm_may_run_is_read_from_its_definition_and_from_where_it_was_moved() {
        let capabilities = testing::capabilities(Release::Libvirt11Qemu10, Accelerator::Tcg);
        let spec = testing::floating(Accelerator::Tcg);
        let xml = crate::xml::render(&spec, &testing::files(), &capabilities).unwrap().xml;
        let floats = |xml: &str| match read_domain("lab".parse().unwrap(), xml) {
            DomainRead::Ours(ours) => ours.floats,
            other => panic!("{other:?}"),
        };
        assert_eq!(floats(&xml), spec.floats);
        let moved =
            xml.replace("<cputune>", "<cputune><vcpupin vcpu='0' cpuset='5-6'/><vcpupin vcpu='1' cpuset='5-6'/>");
        assert_eq!(floats(&moved).unwrap().vcpus.to_string(), "5-6");
    }

    #[test]
    fn other_clusters_and_unmarked_domains_are_foreign() {
        assert_eq!(read_domain("other".parse().unwrap(), &rendered()), DomainRead::Foreign);
        let unmarked = "<domain type='qemu'><name>berth-abc</name></domain>";
        assert_eq!(read_domain("lab".parse().unwrap(), unmarked), DomainRead::Foreign);
        assert_eq!(read_domain("lab".parse().unwrap(), "not xml"), DomainRead::Foreign);
        let long = format!("<domain>{}</domain>", " ".repeat(LONGEST_XML));
        assert_eq!(read_domain("lab".parse().unwrap(), &long), DomainRead::Foreign);
    }

    #[test]
    fn a_copied_definition_and_a_damaged_mark_are_not_ours() {
        let copied = rendered().replace("<name>berth-0123456789abcdefghjk", "<name>berth-copy");
        assert!(matches!(read_domain("lab".parse().unwrap(), &copied), DomainRead::Damaged(_)));
        let damaged = rendered().replace("epoch=\"42\"", "epoch=\"many\"");
        let read = read_domain("lab".parse().unwrap(), &damaged);
        assert!(matches!(&read, DomainRead::Damaged(why) if why.contains("epoch")), "{read:?}");
    }

    #[test]
    fn states_are_told_apart_and_what_libvirt_forgot_is_unknown() {
        let off = |reason| domain_state(sys::VIR_DOMAIN_SHUTOFF, i32::try_from(reason).unwrap());
        assert_eq!(domain_state(sys::VIR_DOMAIN_RUNNING, 1), DomainState::Running);
        assert_eq!(domain_state(sys::VIR_DOMAIN_PAUSED, 1), DomainState::Paused);
        assert_eq!(domain_state(sys::VIR_DOMAIN_SHUTDOWN, 1), DomainState::Stopping);
        assert_eq!(domain_state(sys::VIR_DOMAIN_CRASHED, 1), DomainState::Panicked);
        assert_eq!(off(sys::VIR_DOMAIN_SHUTOFF_CRASHED), DomainState::Stopped(StopReason::Crashed));
        assert_eq!(off(sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN), DomainState::Stopped(StopReason::GuestShutdown));
        assert_eq!(off(sys::VIR_DOMAIN_SHUTOFF_DESTROYED), DomainState::Stopped(StopReason::Asked));
        assert_eq!(off(sys::VIR_DOMAIN_SHUTOFF_FAILED), DomainState::Stopped(StopReason::StartFailed));
        assert_eq!(off(sys::VIR_DOMAIN_SHUTOFF_UNKNOWN), DomainState::Stopped(StopReason::Unknown));
    }
}
