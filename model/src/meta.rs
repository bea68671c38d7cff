//! What every object carries beside its spec.
//!
//! The whole set is here from the first day because the Kubernetes facade needs it and it cannot be added to stored
//! objects later: project (the namespace), name, uid, labels, annotations, finalizers, owners, generation, creation
//! and deletion time, and the revision of the last change (the `resourceVersion`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Generation, Name, Revision, Timestamp, Uid};

/// A reference to the object that owns another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OwnerRef {
    /// Its kind, such as `VirtualMachine`.
    pub kind: String,
    /// Its name in the same project.
    pub name: Name,
    /// Its uid, which alone decides identity.
    pub uid: Uid,
}

/// The metadata of one object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Meta {
    /// The project that holds it; cluster-wide kinds carry the default project.
    pub project: Name,
    /// Its name, unique for its kind within the project.
    pub name: Name,
    /// Its identity for ever.
    pub uid: Uid,
    /// For selection.
    pub labels: BTreeMap<String, String>,
    /// For programs and notes.
    pub annotations: BTreeMap<String, String>,
    /// Who must still act before the object may go.
    pub finalizers: Vec<String>,
    /// Whose part it is.
    pub owners: Vec<OwnerRef>,
    /// How often the spec changed, from 1.
    pub generation: Generation,
    /// When it was created, by entry time.
    pub created_at: Timestamp,
    /// When its deletion was asked for.
    pub deleted_at: Option<Timestamp>,
    /// The revision of its last change.
    pub revision: Revision,
}

impl Meta {
    /// The most labels of one object: few enough that it stays small in the log.
    pub const MOST_LABELS: usize = 64;

    /// Of an object that has just been created: its first generation, and nothing else is known of it yet.
    pub fn new(project: Name, name: Name, uid: Uid, created_at: Timestamp) -> Self {
        Self {
            project,
            name,
            uid,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            finalizers: Vec::new(),
            owners: Vec::new(),
            generation: Generation(1),
            created_at,
            deleted_at: None,
            revision: Revision::default(),
        }
    }

    /// Whether deletion was asked for.
    pub const fn is_deleting(&self) -> bool {
        self.deleted_at.is_some()
    }
}
