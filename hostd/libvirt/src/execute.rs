//! Carries out what concerns a domain: define and start, shut down, force off, undefine. Decides nothing.
//!
//! Every operation is idempotent and looks before it acts: a domain is found by the UUID that its VM must have and is
//! touched only when it carries this cluster's mark for this VM.

use std::time::Duration;

use berth_host::backend::{BackendError, DomainSeen};
use berth_host::float::Floats;
use berth_host::step::{DomainSpec, Mark};
use berth_model::host::ThreadSet;
use berth_model::{ClusterId, VmUid};
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt_sys as sys;

use crate::capabilities::Capabilities;
use crate::ffi;
use crate::inspect::facts_of;
use crate::link::{Connection, Link, prepare_process};
use crate::mark::{self, Marked};
use crate::readback;
use crate::scan::{self, DomainRead};
use crate::xml::{self, DiskFiles, Rendered};

/// Starting touches every hugepage once, which takes a second for some gigabytes, so a large VM takes minutes.
const START_LIMIT: Duration = Duration::from_secs(600);

/// libvirt gives QEMU up to 15 s to end before it kills it, and up to 30 s after that.
const OPERATION_LIMIT: Duration = Duration::from_secs(90);

/// A scan of some hundred domains takes well under a second.
const SCAN_LIMIT: Duration = Duration::from_secs(30);

/// Where libvirt is and whose domains are ours.
#[derive(Clone, Debug)]
pub struct Options {
    /// Such as `qemu:///system`.
    pub uri: String,
    /// The cluster of this host. Domains of other clusters are foreign.
    pub cluster: ClusterId,
}

/// Domains on this host's libvirt. Calls block; make them from a bounded pool.
#[derive(Clone, Debug)]
pub struct LibvirtBackend {
    options: Options,
    operations: Link,
    scans: Link,
}

impl LibvirtBackend {
    /// Connects when first asked for something, and again whenever the connection was lost.
    pub fn new(options: Options) -> Self {
        prepare_process();
        let operations = Link::new(&options.uri, "operations");
        let scans = Link::new(&options.uri, "scan");
        Self { options, operations, scans }
    }

    /// Where libvirt is and whose domains are ours.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// The connection for questions that change nothing.
    pub(crate) fn scans(&self) -> Link {
        self.scans.clone()
    }

    /// Every domain that carries this cluster's mark, in the order of VMs.
    pub fn scan(&self) -> Result<Vec<DomainSeen>, BackendError> {
        let (link, cluster) = (self.scans.clone(), self.options.cluster);
        self.scans.call(SCAN_LIMIT, move |connection| scan::scan(connection, &link, cluster))
    }

    /// The versions of libvirt and QEMU, for people: `libvirt 11.3.0`, `QEMU 10.0.2`.
    pub fn versions(&self) -> Result<Vec<String>, BackendError> {
        let link = self.scans.clone();
        self.scans.call(SCAN_LIMIT, move |connection| {
            let failed = |error| link.failure("VersionUnknown", "asking for versions", &error);
            let text = |name: &str, number: u32| {
                format!("{name} {}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
            };
            let libvirt = connection.get_lib_version().map_err(failed)?;
            let qemu = connection.get_hyp_version().map_err(failed)?;
            Ok(vec![text("libvirt", libvirt), text("QEMU", qemu)])
        })
    }

    /// Defines the domain and starts it. Its files must be there.
    ///
    /// Already active with the same mark: done. Defined with whatever mark of this VM and not active: defined anew.
    /// Active with another mark: refused, since only whoever plans may decide to end it first.
    pub fn start(
        &self,
        spec: &DomainSpec,
        files: &DiskFiles,
        capabilities: &Capabilities,
    ) -> Result<Rendered, BackendError> {
        let what = format!("starting VM {} ({})", spec.mark.name, spec.mark.vm);
        let rendered =
            xml::render(spec, files, capabilities).map_err(|error| start_failed(&what, error.to_string()))?;
        let (link, cluster, wanted, definition) =
            (self.operations.clone(), self.options.cluster, spec.mark.clone(), rendered.xml.clone());
        if wanted.cluster != cluster {
            return Err(start_failed(
                &what,
                format!("it belongs to cluster {}, this host to {cluster}", wanted.cluster),
            ));
        }
        self.operations.call(START_LIMIT, move |connection| {
            let failed = |error: &Error| link.failure("StartFailed", &what, error);
            if let Some(Found { domain, mark }) = find(connection, &link, cluster, wanted.vm, &what)?
                && domain.is_active().map_err(|error| failed(&error))?
            {
                return already_active(&what, &wanted, &mark);
            }
            let domain = Domain::define_xml(connection, &definition).map_err(|error| failed(&error))?;
            match domain.create() {
                Ok(_) => {
                    tracing::info!(vm.id = %wanted.vm, vm.name = %wanted.name, stamp = %wanted.stamp, "domain started");
                    // It runs; if it cannot be looked at now, that is seen of its mark and made up for.
                    if let Err(error) = read_back(&domain, &definition, &link, &what) {
                        tracing::warn!(vm.id = %wanted.vm, %error, "how it runs could not be read back");
                    }
                    Ok(())
                }
                Err(error) => Err(failed(&error)),
            }
        })?;
        Ok(rendered)
    }

    /// Compares how the domain runs with its definition, and keeps in its mark what differs. A VM that does not run, or is
    /// not there: done.
    pub fn read_back(&self, vm: VmUid) -> Result<(), BackendError> {
        let (link, cluster) = (self.operations.clone(), self.options.cluster);
        self.operations.call(OPERATION_LIMIT, move |connection| {
            let what = format!("reading back how VM {vm} runs");
            let Some(Found { domain, .. }) = find(connection, &link, cluster, vm, &what)? else { return Ok(()) };
            let failed = |error: &Error| link.failure("ReadBackFailed", &what, error);
            if !domain.is_active().map_err(|error| failed(&error))? {
                return Ok(());
            }
            let definition = domain.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).map_err(|error| failed(&error))?;
            read_back(&domain, &definition, &link, &what)
        })
    }

    /// Lets a running VM whose CPUs float run on other threads, from now on and after its next start too. A VM that does
    /// not run, or is not there: done.
    pub fn repin(&self, vm: VmUid, floats: &Floats) -> Result<(), BackendError> {
        let (vcpus, mut helpers) = (cpu_map(&floats.vcpus), cpu_map(&floats.helpers));
        self.on_ours(vm, "RepinFailed", "moving to other threads", move |domain| {
            let flags = sys::VIR_DOMAIN_AFFECT_LIVE | sys::VIR_DOMAIN_AFFECT_CONFIG;
            for vcpu in 0..domain.get_vcpus_flags(0)? {
                domain.pin_vcpu_flags(vcpu, &vcpus, flags)?;
            }
            domain.pin_emulator(&helpers, flags)?;
            for (iothread, _) in ffi::iothread_pins(domain)? {
                ffi::pin_iothread(domain, iothread, &mut helpers, flags)?;
            }
            Ok(())
        })
    }

    /// Asks the guest to shut down by its power button. A VM that does not run, or is not there: done.
    pub fn shutdown(&self, vm: VmUid) -> Result<(), BackendError> {
        self.on_ours(vm, "ShutdownFailed", "asking to shut down", |domain| {
            domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN).map(drop)
        })
    }

    /// Ends the domain at once. A VM that does not run, or is not there: done.
    pub fn force_off(&self, vm: VmUid) -> Result<(), BackendError> {
        self.on_ours(vm, "ForceOffFailed", "forcing off", |domain| {
            domain.destroy_flags(sys::VIR_DOMAIN_DESTROY_DEFAULT).map(drop)
        })
    }

    /// Holds guest code. A VM that does not run, or is held already: done.
    pub fn pause(&self, vm: VmUid) -> Result<(), BackendError> {
        self.on_ours(vm, "PauseFailed", "pausing", |domain| match domain.get_state()? {
            (sys::VIR_DOMAIN_PAUSED, _) => Ok(()),
            _ => domain.suspend().map(drop),
        })
    }

    /// Lets guest code go on. A VM that is not held: done.
    pub fn resume(&self, vm: VmUid) -> Result<(), BackendError> {
        self.on_ours(vm, "ResumeFailed", "resuming", |domain| match domain.get_state()? {
            (sys::VIR_DOMAIN_PAUSED, _) => domain.resume().map(drop),
            (sys::VIR_DOMAIN_PMSUSPENDED, _) => domain.pm_wakeup(0).map(drop),
            _ => Ok(()),
        })
    }

    /// Resets the machine as its button would. A VM that does not run: done.
    pub fn reset(&self, vm: VmUid) -> Result<(), BackendError> {
        self.on_ours(vm, "ResetFailed", "resetting", |domain| domain.reset().map(drop))
    }

    /// Removes the definition and what libvirt keeps beside it. Not there: done. Still active: refused.
    pub fn undefine(&self, vm: VmUid) -> Result<(), BackendError> {
        let (link, cluster) = (self.operations.clone(), self.options.cluster);
        self.operations.call(OPERATION_LIMIT, move |connection| {
            let what = format!("removing the definition of VM {vm}");
            let Some(Found { domain, .. }) = find(connection, &link, cluster, vm, &what)? else { return Ok(()) };
            let failed = |error: &Error| link.failure("UndefineFailed", &what, error);
            if domain.is_active().map_err(|error| failed(&error))? {
                let why = "it still runs; force it off first".to_owned();
                return Err(BackendError::Failed { reason: "UndefineFailed", what, why });
            }
            let everything = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
            match domain.undefine_flags(everything) {
                Ok(()) => Ok(()),
                Err(error) if error.code() == ErrorNumber::NoDomain => Ok(()),
                Err(error) => Err(failed(&error)),
            }
        })
    }

    /// Whether a domain of this VM is defined or active.
    pub fn exists(&self, vm: VmUid) -> Result<bool, BackendError> {
        let (link, cluster) = (self.scans.clone(), self.options.cluster);
        self.scans.call(SCAN_LIMIT, move |connection| {
            Ok(find(connection, &link, cluster, vm, &format!("looking for VM {vm}"))?.is_some())
        })
    }

    /// Runs `act` on the active domain of `vm`; a domain that is not there or not active needs nothing done.
    fn on_ours(
        &self,
        vm: VmUid,
        reason: &'static str,
        verb: &'static str,
        act: impl FnOnce(&Domain) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), BackendError> {
        let (link, cluster) = (self.operations.clone(), self.options.cluster);
        self.operations.call(OPERATION_LIMIT, move |connection| {
            let what = format!("{verb} VM {vm}");
            let Some(Found { domain, .. }) = find(connection, &link, cluster, vm, &what)? else { return Ok(()) };
            let failed = |error: &Error| link.failure(reason, &what, error);
            if !domain.is_active().map_err(|error| failed(&error))? {
                return Ok(());
            }
            match act(&domain) {
                Ok(()) => Ok(()),
                Err(error) if error.code() == ErrorNumber::NoDomain => Ok(()),
                // It may have ended by itself in between, which is what was asked for.
                Err(error) => match domain.is_active() {
                    Ok(false) => Ok(()),
                    _ => Err(failed(&error)),
                },
            }
        })
    }
}

/// Compares how a running domain of ours runs with this definition of it, and keeps in its mark what differs.
fn read_back(domain: &Domain, definition: &str, link: &Link, what: &str) -> Result<(), BackendError> {
    let odd = |why: String| BackendError::Failed { reason: "ReadBackFailed", what: what.to_owned(), why };
    let facts = facts_of(domain).map_err(|unseen| unseen.into_backend(link, what))?;
    let differs = readback::differences(definition, &facts).map_err(|error| odd(error.to_string()))?;
    for sentence in &differs {
        tracing::warn!(vm.id = domain.get_name().unwrap_or_default(), "runs otherwise than asked: {sentence}");
    }
    let document = roxmltree::Document::parse(definition).map_err(|error| odd(error.to_string()))?;
    let marked = match Marked::read(document.root_element()) {
        Some(Ok(marked)) => Marked { differs: Some(differs), ..marked },
        Some(Err(error)) => return Err(odd(error.to_string())),
        None => return Err(odd("its definition carries no mark".to_owned())),
    };
    let element = marked.replacement().render().map_err(|error| odd(error.to_string()))?;
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
    let flags = sys::VIR_DOMAIN_AFFECT_LIVE | sys::VIR_DOMAIN_AFFECT_CONFIG;
    domain
        .set_metadata(kind, Some(&element), Some("berth"), Some(mark::NAMESPACE), flags)
        .map(drop)
        .map_err(|error| link.failure("ReadBackFailed", what, &error))
}

/// A set of threads as libvirt takes it: one bit each, in as many bytes as are needed.
fn cpu_map(threads: &ThreadSet) -> Vec<u8> {
    let mut map = Vec::new();
    for thread in threads.iter() {
        let (byte, bit) = (thread.0 as usize / 8, thread.0 % 8);
        if map.len() <= byte {
            map.resize(byte + 1, 0);
        }
        map[byte] |= 1 << bit;
    }
    map
}

/// A domain of ours and what it says of itself.
pub(crate) struct Found {
    pub(crate) domain: Domain,
    pub(crate) mark: Mark,
}

/// The domain of `vm`, if there is one. One that has its UUID and not its mark is refused: it is not ours to touch.
pub(crate) fn find(
    connection: &Connection,
    link: &Link,
    cluster: ClusterId,
    vm: VmUid,
    what: &str,
) -> Result<Option<Found>, BackendError> {
    let look = || {
        let domain = Domain::lookup_by_uuid_string(connection, &mark::domain_uuid(cluster, vm))?;
        let xml = domain.get_xml_desc(0)?;
        Ok((domain, xml))
    };
    let (domain, xml) = match look() {
        Ok(found) => found,
        Err(error) => {
            let error: Error = error;
            return match error.code() {
                ErrorNumber::NoDomain => Ok(None),
                _ => Err(link.failure("LookupFailed", what, &error)),
            };
        }
    };
    match scan::read_domain(cluster, &xml) {
        DomainRead::Ours(ours) => Ok(Some(Found { domain, mark: ours.marked.mark })),
        DomainRead::Foreign | DomainRead::Damaged(_) => Err(BackendError::Failed {
            reason: "ForeignDomain",
            what: what.to_owned(),
            why: "a domain with its UUID does not carry this VM's mark; Berth does not touch it. Look at it with \
                  `virsh dumpxml` and undefine it if nobody needs it"
                .to_owned(),
        }),
    }
}

fn already_active(what: &str, wanted: &Mark, found: &Mark) -> Result<(), BackendError> {
    if wanted == found {
        return Ok(());
    }
    let why = format!(
        "it runs already, started by placement {} with restart count {}, not by {} with {}",
        found.stamp, found.restart_count, wanted.stamp, wanted.restart_count
    );
    Err(start_failed(what, why))
}

fn start_failed(what: &str, why: String) -> BackendError {
    BackendError::Failed { reason: "StartFailed", what: what.to_owned(), why }
}
