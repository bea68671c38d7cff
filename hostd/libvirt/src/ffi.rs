//! What the `virt` crate lacks, in our own words on `virt-sys`: the event loop's callbacks, console streams and pinning.
//!
//! This is the only module of the crate that may use `unsafe`. Everything it offers is safe to call; callbacks are
//! boxed closures that libvirt owns and frees through us, and a panic in one never crosses into C.

#![expect(unsafe_code, reason = "libvirt's events, streams and pin queries exist only in C")]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

/// A lifecycle event as libvirt gives it.
#[derive(Clone, Debug)]
pub(crate) struct RawEvent {
    pub(crate) domain_name: String,
    pub(crate) event: u32,
    pub(crate) detail: i32,
}

type EventHandler = Box<dyn Fn(RawEvent) + Send + Sync>;
type CloseHandler = Box<dyn Fn(c_int) + Send + Sync>;
type StreamHandler = Box<dyn Fn(u32) + Send + Sync>;

/// Asks for lifecycle events of all domains. Returns the number that ends the subscription.
///
/// The handler runs on the event loop's thread and must neither block nor call libvirt.
pub(crate) fn register_lifecycle(connect: &Connect, handler: EventHandler) -> Result<c_int, Error> {
    type Typed = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
    type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);

    let opaque = Box::into_raw(Box::new(handler)).cast::<c_void>();
    // SAFETY: libvirt documents that the generic callback type is to be cast from the type that belongs to the event
    // id, and calls it with that type's arguments; both are C function pointers of one size.
    let callback: Generic = unsafe { std::mem::transmute::<Typed, Generic>(lifecycle_callback) };
    // SAFETY: `connect` holds an open connection; a null domain means all domains; `opaque` is a
    // `Box<EventHandler>` given away to libvirt, which frees it through `free_event_handler` exactly once.
    let id = unsafe {
        sys::virConnectDomainEventRegisterAny(
            connect.as_ptr(),
            ptr::null_mut(),
            sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE.cast_signed(),
            Some(callback),
            opaque,
            Some(free_box::<EventHandler>),
        )
    };
    if id < 0 {
        let error = Error::last_error();
        // SAFETY: on failure libvirt did not take `opaque`, so it is still ours and is freed only here.
        unsafe { free_box::<EventHandler>(opaque) };
        return Err(error);
    }
    Ok(id)
}

/// Ends a subscription; an error means that it was already gone with its connection.
pub(crate) fn deregister_lifecycle(connect: &Connect, id: c_int) -> Result<(), Error> {
    // SAFETY: `connect` holds an open connection and the call takes plain values.
    let outcome = unsafe { sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), id) };
    if outcome < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// Asks to be told when the connection ends. Drivers inside the process do not support it.
pub(crate) fn register_close(connect: &Connect, handler: CloseHandler) -> Result<(), Error> {
    let opaque = Box::into_raw(Box::new(handler)).cast::<c_void>();
    // SAFETY: as in `register_lifecycle`: libvirt takes `opaque` on success and frees it through `free_box` once.
    let outcome = unsafe {
        sys::virConnectRegisterCloseCallback(
            connect.as_ptr(),
            Some(close_callback),
            opaque,
            Some(free_box::<CloseHandler>),
        )
    };
    if outcome < 0 {
        let error = Error::last_error();
        // SAFETY: on failure libvirt did not take `opaque`.
        unsafe { free_box::<CloseHandler>(opaque) };
        return Err(error);
    }
    Ok(())
}

/// Takes back what [`register_close`] registered; the connection can be freed only after this.
pub(crate) fn deregister_close(connect: &Connect) {
    // SAFETY: `connect` holds an open connection; an unregistered callback is answered with an error, not misused.
    unsafe { sys::virConnectUnregisterCloseCallback(connect.as_ptr(), Some(close_callback)) };
}

unsafe extern "C" fn lifecycle_callback(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: `opaque` is the `Box<EventHandler>` of `register_lifecycle`; libvirt frees it only after the last call.
    let handler = unsafe { &*opaque.cast::<EventHandler>() };
    // SAFETY: `domain` is valid during the callback, and its name is a C string that lives as long as it does; no
    // call to the daemon is made for it.
    let domain_name = unsafe {
        let name = sys::virDomainGetName(domain);
        if name.is_null() { String::new() } else { std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned() }
    };
    let event = RawEvent { domain_name, event: u32::try_from(event).unwrap_or(u32::MAX), detail };
    contain(|| handler(event));
    0
}

unsafe extern "C" fn close_callback(_connect: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    // SAFETY: `opaque` is the `Box<CloseHandler>` of `register_close`, freed only after the last call.
    let handler = unsafe { &*opaque.cast::<CloseHandler>() };
    contain(|| handler(reason));
}

unsafe extern "C" fn stream_callback(_stream: sys::virStreamPtr, events: c_int, opaque: *mut c_void) {
    // SAFETY: `opaque` is the `Box<StreamHandler>` of `RawStream::add_callback`, freed only after the last call.
    let handler = unsafe { &*opaque.cast::<StreamHandler>() };
    contain(|| handler(u32::try_from(events).unwrap_or(0)));
}

unsafe extern "C" fn free_box<T>(opaque: *mut c_void) {
    // SAFETY: `opaque` came from `Box::into_raw` of a `Box<T>` and nobody else holds it any more.
    let owned = unsafe { Box::from_raw(opaque.cast::<T>()) };
    contain(|| drop(owned));
}

/// A panic must not unwind into C. What it says has been printed by the panic hook.
fn contain(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("a libvirt callback panicked; the event is lost");
    }
}

/// What one attempt to read from or write to a non-blocking stream gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transfer {
    /// So many bytes went through; none read means the end.
    Bytes(usize),
    /// Nothing can go through at present.
    WouldBlock,
}

/// A non-blocking libvirt stream. It may be used from several threads; libvirt locks it.
#[derive(Debug)]
pub(crate) struct RawStream(sys::virStreamPtr);

// SAFETY: a virStream is reference-counted with atomic operations and every call on it takes its own lock.
unsafe impl Send for RawStream {}
// SAFETY: as above; libvirt documents its API as thread-safe.
unsafe impl Sync for RawStream {}

impl RawStream {
    pub(crate) const READABLE: u32 = sys::VIR_STREAM_EVENT_READABLE;
    pub(crate) const WRITABLE: u32 = sys::VIR_STREAM_EVENT_WRITABLE;
    pub(crate) const ENDED: u32 = sys::VIR_STREAM_EVENT_ERROR | sys::VIR_STREAM_EVENT_HANGUP;

    pub(crate) fn new(connect: &Connect) -> Result<Self, Error> {
        // SAFETY: `connect` holds an open connection.
        let stream = unsafe { sys::virStreamNew(connect.as_ptr(), sys::VIR_STREAM_NONBLOCK as c_uint) };
        if stream.is_null() { Err(Error::last_error()) } else { Ok(Self(stream)) }
    }

    /// Joins this stream to the domain's first serial console.
    pub(crate) fn open_console(&self, domain: &Domain, flags: u32) -> Result<(), Error> {
        // SAFETY: both pointers are valid; a null device name means the first console.
        let outcome = unsafe { sys::virDomainOpenConsole(domain.as_ptr(), ptr::null(), self.0, flags) };
        if outcome < 0 { Err(Error::last_error()) } else { Ok(()) }
    }

    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Result<Transfer, Error> {
        // SAFETY: the buffer is valid for writes of its length during the call.
        let got = unsafe { sys::virStreamRecv(self.0, buffer.as_mut_ptr().cast::<c_char>(), buffer.len()) };
        transfer(got)
    }

    pub(crate) fn send(&self, data: &[u8]) -> Result<Transfer, Error> {
        // SAFETY: the data is valid for reads of its length during the call.
        let sent = unsafe { sys::virStreamSend(self.0, data.as_ptr().cast::<c_char>(), data.len()) };
        transfer(sent)
    }

    /// Calls `handler` on the event loop's thread when one of `events` holds. At most one callback per stream.
    pub(crate) fn add_callback(&self, events: u32, handler: StreamHandler) -> Result<(), Error> {
        let opaque = Box::into_raw(Box::new(handler)).cast::<c_void>();
        // SAFETY: the stream is valid; libvirt takes `opaque` on success and frees it through `free_box` once.
        let outcome = unsafe {
            sys::virStreamEventAddCallback(
                self.0,
                bits(events),
                Some(stream_callback),
                opaque,
                Some(free_box::<StreamHandler>),
            )
        };
        if outcome < 0 {
            let error = Error::last_error();
            // SAFETY: on failure libvirt did not take `opaque`.
            unsafe { free_box::<StreamHandler>(opaque) };
            return Err(error);
        }
        Ok(())
    }

    /// Changes what the callback is called for. Allowed inside the callback too.
    pub(crate) fn watch(&self, events: u32) -> Result<(), Error> {
        // SAFETY: the stream is valid; without a callback libvirt answers with an error.
        let outcome = unsafe { sys::virStreamEventUpdateCallback(self.0, bits(events)) };
        if outcome < 0 { Err(Error::last_error()) } else { Ok(()) }
    }

    /// Takes the callback back and ends the stream without waiting for the other side.
    pub(crate) fn abort(&self) {
        // SAFETY: the stream is valid; both calls answer with an error when there is nothing left to end.
        unsafe {
            sys::virStreamEventRemoveCallback(self.0);
            sys::virStreamAbort(self.0);
        }
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        // SAFETY: this is the one reference that `virStreamNew` gave.
        unsafe { sys::virStreamFree(self.0) };
    }
}

fn bits(events: u32) -> c_int {
    c_int::try_from(events).expect("stream events are four low bits")
}

fn transfer(outcome: c_int) -> Result<Transfer, Error> {
    match outcome {
        -2 => Ok(Transfer::WouldBlock),
        count => usize::try_from(count).map(Transfer::Bytes).map_err(|_| Error::last_error()),
    }
}

/// The CPUs that one thread of a domain may run on, by number.
pub(crate) type Cpus = Vec<u32>;

/// How many bytes of a CPU map are asked for: 8192 CPUs, as many as a `ThreadSet` understands.
const MAP_BYTES: usize = 1024;

/// The same, as libvirt counts.
const MAP_LENGTH: c_int = 1024;

/// The pinning of each vCPU, in their order.
pub(crate) fn vcpu_pins(domain: &Domain, vcpus: u32) -> Result<Vec<Cpus>, Error> {
    let mut maps = vec![0_u8; MAP_BYTES * vcpus as usize];
    // SAFETY: `maps` holds `vcpus` maps of MAP_BYTES bytes each, which is what the two numbers say.
    let got = unsafe {
        sys::virDomainGetVcpuPinInfo(
            domain.as_ptr(),
            c_int::try_from(vcpus).unwrap_or(c_int::MAX),
            maps.as_mut_ptr(),
            MAP_LENGTH,
            sys::VIR_DOMAIN_AFFECT_CURRENT as c_uint,
        )
    };
    let got = usize::try_from(got).map_err(|_| Error::last_error())?;
    Ok(maps.chunks(MAP_BYTES).take(got).map(cpus_of).collect())
}

/// The pinning of the emulator's own threads.
pub(crate) fn emulator_pins(domain: &Domain) -> Result<Cpus, Error> {
    let mut map = vec![0_u8; MAP_BYTES];
    // SAFETY: `map` has MAP_BYTES bytes.
    let outcome = unsafe {
        sys::virDomainGetEmulatorPinInfo(
            domain.as_ptr(),
            map.as_mut_ptr(),
            MAP_LENGTH,
            sys::VIR_DOMAIN_AFFECT_CURRENT as c_uint,
        )
    };
    if outcome < 0 { Err(Error::last_error()) } else { Ok(cpus_of(&map)) }
}

/// The number and pinning of each IOThread.
pub(crate) fn iothread_pins(domain: &Domain) -> Result<Vec<(u32, Cpus)>, Error> {
    let mut infos: *mut sys::virDomainIOThreadInfoPtr = ptr::null_mut();
    // SAFETY: libvirt stores an array that it allocated into `infos` and returns its length.
    let count = unsafe {
        sys::virDomainGetIOThreadInfo(domain.as_ptr(), &raw mut infos, sys::VIR_DOMAIN_AFFECT_CURRENT as c_uint)
    };
    let count = usize::try_from(count).map_err(|_| Error::last_error())?;
    let mut pins = Vec::with_capacity(count);
    for at in 0..count {
        // SAFETY: the array has `count` valid entries; the map of each has `cpumaplen` bytes; each entry is freed
        // once, after its contents were copied.
        unsafe {
            let info = *infos.add(at);
            let length = usize::try_from((*info).cpumaplen).unwrap_or(0);
            let map = if (*info).cpumap.is_null() || length == 0 {
                &[][..]
            } else {
                std::slice::from_raw_parts((*info).cpumap, length)
            };
            pins.push(((*info).iothread_id, cpus_of(map)));
            sys::virDomainIOThreadInfoFree(info);
        }
    }
    if !infos.is_null() {
        // SAFETY: the array itself came from libvirt's malloc and is freed once.
        unsafe { free(infos.cast::<c_void>()) };
    }
    Ok(pins)
}

/// Lets one IOThread run on these CPUs.
pub(crate) fn pin_iothread(domain: &Domain, iothread: u32, cpus: &mut [u8], flags: u32) -> Result<(), Error> {
    // SAFETY: `cpus` has as many bytes as is said, and libvirt only reads them.
    let outcome = unsafe {
        sys::virDomainPinIOThread(
            domain.as_ptr(),
            iothread,
            cpus.as_mut_ptr(),
            c_int::try_from(cpus.len()).unwrap_or(c_int::MAX),
            flags as c_uint,
        )
    };
    if outcome < 0 { Err(Error::last_error()) } else { Ok(()) }
}

unsafe extern "C" {
    fn free(memory: *mut c_void);
}

fn cpus_of(map: &[u8]) -> Cpus {
    let mut cpus = Vec::new();
    for (at, byte) in map.iter().enumerate() {
        for bit in 0..8 {
            if byte & (1 << bit) != 0 {
                cpus.push(u32::try_from(at * 8 + bit).expect("a map has 8192 bits at most"));
            }
        }
    }
    cpus
}
