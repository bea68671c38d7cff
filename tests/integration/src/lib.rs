//! Black-box tests of the real binaries on the lab.
//!
//! What is here is the harness; the tests are in `tests/lab`, one program, each test with a cluster of its own. They
//! touch the product only where an operator or an attacker could: through the API with certificates, through `berth`,
//! through signals to processes, through files and through libvirt on a host.
//!
//! | To do | Use |
//! |---|---|
//! | bring a cluster up, kill parts of it, look at who leads | [`World`] |
//! | call a member's API with a certificate of one's choice | [`Api`], [`Call`] |
//! | send a change as a client should, under one id until it is answered | [`request::insist`] |
//! | run the command line | [`Cli`] |
//! | look into a host: libvirt, QEMU, the kernel | [`Host`] |
//! | break a cluster at random under load and judge what its clients saw | [`faults`] |
//! | wait for something, and say what was seen when it does not come | [`until`] |
//!
//! A test whose machine cannot run it fails and says what is missing; none is skipped.

mod api;
mod cli;
pub mod faults;
mod host;
mod machine;
mod raw;
pub mod request;
mod wait;
mod world;

pub use api::{Api, Call, code, denial};
pub use cli::{Cli, Said, controller};
pub use host::{Domain, Host, lives};
pub use machine::{Tiny, tiny};
pub use raw::Lists;
pub use wait::{figure, until};
pub use world::World;
