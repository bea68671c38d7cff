//! One number for the whole replicated state, kept up as it changes, by which members compare themselves (law 11).
//!
//! Every object, every remembered request and every orphan's holding gives one SHA-256 over its frozen encoding; the
//! digest is their sum, lane by lane, so that putting and removing cost one hash each and the order does not matter. What
//! is one value (revision, entry time, identity) is hashed when the digest is asked for. Indices are left out: they follow
//! from the objects, which [`crate::audit`] checks. So is the history, which follows from the same changes. The frozen
//! encodings make it the same for all versions of the program; a new layout of a record may enter the digest only
//! together with a higher cluster version.
//!
//! ```text
//!   digest = Σ H(object) + Σ H(sealed secret) + Σ H(request) + Σ H(orphan's holding) + Σ H(proposal) + H(single values)
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::cluster::Cluster;
use crate::history::Held;
use crate::record;

/// What one hash is of, so that no two sorts of things can stand for each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Vm = 1,
    Host = 2,
    Image = 3,
    InstanceType = 4,
    Sealed = 5,
    Request = 6,
    Single = 7,
    Holding = 8,
    Preference = 9,
    Proposal = 10,
}

/// The digest of a state, or of a part of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Digest(pub(crate) [u64; 4]);

impl Digest {
    /// Adds one thing, of these pieces.
    pub(crate) fn add(&mut self, part: Part, pieces: &[&[u8]]) {
        let term = term(part, pieces);
        self.merge(term);
    }

    /// Takes one thing out that was added as these pieces.
    pub(crate) fn remove(&mut self, part: Part, pieces: &[&[u8]]) {
        for (lane, gone) in self.0.iter_mut().zip(term(part, pieces).0) {
            *lane = lane.wrapping_sub(gone);
        }
    }

    fn merge(&mut self, other: Self) {
        for (lane, more) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_add(more);
        }
    }

    /// The digest that these bytes are.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut lanes = [0; 4];
        for (lane, part) in lanes.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *lane = u64::from_le_bytes(*part);
        }
        Self(lanes)
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (part, lane) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *part = lane.to_le_bytes();
        }
        bytes
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hash of one thing. Each piece goes in with its length: no two lists of pieces look alike.
fn term(part: Part, pieces: &[&[u8]]) -> Digest {
    let mut hasher = sha2::Sha256::new();
    hasher.update([part as u8]);
    for piece in pieces {
        hasher.update((piece.len() as u64).to_le_bytes());
        hasher.update(piece);
    }
    Digest::from_bytes(hasher.finalize().into())
}

/// An object and its body, as they go into the sum. The secret is a term of its own: it is large and seldom changes.
pub(crate) fn add_object(sum: &mut Digest, held: &Held<'_>, body: &[u8]) {
    sum.add(held.part(), &[&held.meta().revision.0.to_le_bytes(), body]);
}

/// The reverse of [`add_object`].
pub(crate) fn remove_object(sum: &mut Digest, held: &Held<'_>, body: &[u8]) {
    sum.remove(held.part(), &[&held.meta().revision.0.to_le_bytes(), body]);
}

/// A VM's secret, as it goes into the sum.
pub(crate) fn change_secret(sum: &mut Digest, before: Option<&Held<'_>>, after: Option<&Held<'_>>) {
    let (old, new) = (before.and_then(Held::sealed), after.and_then(Held::sealed));
    if old == new {
        return;
    }
    if let Some((held, sealed)) = before.zip(old) {
        let uid = held.meta().uid;
        sum.remove(
            Part::Sealed,
            &[uid.as_str().as_bytes(), sealed.key_id.as_bytes(), &sealed.nonce, &sealed.ciphertext],
        );
    }
    if let Some((held, sealed)) = after.zip(new) {
        let uid = held.meta().uid;
        sum.add(Part::Sealed, &[uid.as_str().as_bytes(), sealed.key_id.as_bytes(), &sealed.nonce, &sealed.ciphertext]);
    }
}

impl Cluster {
    /// The digest of the whole state, in O(1).
    pub fn digest(&self) -> Digest {
        let mut digest = self.sum;
        digest.merge(self.requests.sum);
        digest.add(Part::Single, &[&record::singles(self)]);
        digest
    }

    /// Computes the sum over all objects anew.
    pub(crate) fn summed(&self) -> Digest {
        let mut sum = Digest::default();
        let vms = self.vms.values().map(|vm| Held::Vm(vm));
        let hosts = self.hosts.values().map(|host| Held::Host(host));
        let images = self.images.values().map(|image| Held::Image(image));
        let types = self.instance_types.values().map(|instance_type| Held::InstanceType(instance_type));
        let preferences = self.preferences.values().map(|preference| Held::Preference(preference));
        for held in vms.chain(hosts).chain(images).chain(types).chain(preferences) {
            add_object(&mut sum, &held, &held.body());
            change_secret(&mut sum, None, Some(&held));
        }
        for proposal in &self.proposals {
            sum.add(Part::Proposal, &[&record::proposal_body(proposal)]);
        }
        for ((host, _), holding) in &self.holdings {
            sum.add(Part::Holding, &[&record::encode_holding(*host, holding)]);
        }
        sum
    }
}

/// The digest at one point of the log that all members pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which: taken after the first entry that brought the revision to this many times [`Checkpoint::EVERY`].
    pub number: u64,
    /// The revision after that entry.
    pub revision: berth_model::Revision,
    /// The digest of the state then.
    pub digest: Digest,
}

impl Checkpoint {
    /// Revisions between two of them.
    pub const EVERY: u64 = 1000;
    /// How many are remembered: members that are seconds apart still have some in common.
    pub const KEPT: usize = 32;
}

/// Remembers a checkpoint if an entry brought the revision over the next one.
pub(crate) fn note_checkpoint(cluster: &mut Cluster, before: berth_model::Revision) {
    let number = cluster.revision.0 / Checkpoint::EVERY;
    if number > before.0 / Checkpoint::EVERY {
        let checkpoint = Checkpoint { number, revision: cluster.revision, digest: cluster.digest() };
        cluster.checkpoints.push_back(checkpoint);
        while cluster.checkpoints.len() > Checkpoint::KEPT {
            cluster.checkpoints.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
