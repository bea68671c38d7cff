//! The tests: each is a sentence that must hold, and brings up a cluster of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "what a test found out is shown by the test runner")]

mod backup;
mod controllers;
mod disk;
mod failures;
mod images;
mod lifecycle;
mod machines;
mod members;
mod moves;
mod placement;
mod refusals;
mod vms;

use std::time::Duration;

use berth_integration::World;
use berth_proto::v1;

/// The longest that a guest may take from its start to its login under emulation, beside others, on two busy cores.
const BOOT: Duration = Duration::from_secs(150);
/// The longest that a VM may take from a request until its domain runs or is gone.
const SOON: Duration = Duration::from_secs(45);

fn uid(vm: &v1::Vm) -> String {
    vm.meta.as_ref().unwrap().uid.clone()
}

fn status(vm: &v1::Vm) -> &v1::VmStatus {
    vm.status.as_ref().unwrap()
}

fn condition<'a>(all: &'a [v1::Condition], kind: &str) -> &'a v1::Condition {
    all.iter().find(|condition| condition.kind == kind).unwrap_or_else(|| panic!("no condition {kind} in {all:#?}"))
}

/// Waits until a guest asks for a login under its own name: before that it does not hear the power button.
async fn booted(world: &World, name: &str) -> String {
    world.api("c1").console(name, &format!("{name} login:"), BOOT).await
}
