//! A cluster's certificates, made for one test.

use std::time::SystemTime;

use berth_pki::{Authority, Credentials, Identity, Issued, Role, Validity};

pub(crate) struct Trust(Authority);

impl Trust {
    pub(crate) fn new() -> Self {
        Self(Authority::generate("lab", validity()).unwrap())
    }

    pub(crate) fn issue(&self, role: Role, name: &str) -> Issued {
        let identity = Identity::new("lab", role, name).unwrap();
        self.0.issue(&identity, &[], validity()).unwrap()
    }

    pub(crate) fn credentials(&self, role: Role, name: &str) -> Credentials {
        Credentials::from_issued(&self.issue(role, name)).unwrap()
    }
}

fn validity() -> Validity {
    Validity::days(SystemTime::now(), 1)
}
