//! What can be asked of the history: lists of changes, and an object as it was.

use berth_model::host::Host;
use berth_model::image::Image;
use berth_model::instancetype::{InstanceType, Preference};
use berth_model::vm::Vm;
use berth_model::{Name, Revision};

use super::{Held, History, ObjectKind, Record};
use crate::cluster::Cluster;
use crate::record::{self, RecordError};

/// Which object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked<'a> {
    /// Of which sort.
    pub kind: ObjectKind,
    /// Of which project; hosts, images and instance types are in the default one.
    pub project: &'a Name,
    /// Of which name.
    pub name: &'a Name,
}

/// Which changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Question<'a> {
    /// Of this sort of objects alone.
    pub kind: Option<ObjectKind>,
    /// Of this object alone.
    pub object: Option<Asked<'a>>,
    /// Asked for by an actor of this name, such as `ada`, or of this role and name, such as `operator/ada`.
    pub actor: Option<&'a str>,
    /// After this revision.
    pub after: Option<Revision>,
    /// At this revision or before.
    pub until: Option<Revision>,
}

/// An object as it was, without its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stored {
    /// A VM.
    Vm(Box<Vm>),
    /// A host.
    Host(Box<Host>),
    /// An image.
    Image(Box<Image>),
    /// An instance type.
    InstanceType(Box<InstanceType>),
    /// A preference.
    Preference(Box<Preference>),
}

/// An object at a revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Then {
    /// The object; its own revision is that of its last change until then.
    pub object: Stored,
    /// The change that made it so, if it is still known.
    pub by: Option<Record>,
    /// The change that ended this version of it, if one did.
    pub ended: Option<Record>,
}

/// Why the past cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum NotAt {
    /// It is no longer kept.
    #[error("the history before revision {oldest} is no longer kept (compacted); {asked} was asked for")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest that can be asked for.
        oldest: Revision,
    },
    /// It has not been yet.
    #[error("revision {asked} has not been yet; the state is at {newest}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// What there is.
        newest: Revision,
    },
    /// The history is damaged.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What could be asked for, and whether this is it.
fn check(cluster: &Cluster, asked: Revision) -> Result<(), NotAt> {
    let (oldest, newest) = (cluster.history.oldest(), cluster.revision);
    if asked < oldest {
        return Err(NotAt::Compacted { asked, oldest });
    }
    if asked > newest {
        return Err(NotAt::Future { asked, newest });
    }
    Ok(())
}

impl History {
    /// Every record after `after`, the newest first, until `see` says that it is enough.
    pub(crate) fn walk(&self, after: Revision, mut see: impl FnMut(Record) -> bool) -> Result<(), RecordError> {
        for (revision, encoded) in self.open.iter().rev() {
            if *revision <= after {
                return Ok(());
            }
            for record in record::decode_history(encoded)? {
                if !see(record) {
                    return Ok(());
                }
            }
        }
        for block in self.blocks.iter().rev() {
            if block.last <= after {
                return Ok(());
            }
            for record in block.unpack()?.into_iter().rev() {
                if record.revision <= after || !see(record) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Question<'_> {
    fn fits(&self, record: &Record) -> bool {
        let object = self.object.is_none_or(|asked| {
            asked.kind == record.kind && *asked.project == record.project && *asked.name == record.name
        });
        let actor = self.actor.is_none_or(|asked| asked == record.actor.name || asked == record.actor.to_string());
        let kind = self.kind.is_none_or(|asked| asked == record.kind);
        object && kind && actor && self.until.is_none_or(|until| record.revision <= until)
    }
}

/// The newest changes that fit, at most `limit`, the newest first, and whether there are older ones that fit.
pub fn list(cluster: &Cluster, question: &Question<'_>, limit: usize) -> Result<(Vec<Record>, bool), NotAt> {
    if let Some(after) = question.after {
        check(cluster, after)?;
    }
    let mut found = Vec::new();
    let mut more = false;
    cluster.history.walk(question.after.unwrap_or_default(), |record| {
        if question.fits(&record) {
            more = found.len() == limit;
            if !more {
                found.push(record);
            }
        }
        !more
    })?;
    Ok((found, more))
}

/// An object as it was at a revision; none if there was none of this name.
pub fn at(cluster: &Cluster, asked: &Asked<'_>, revision: Revision) -> Result<Option<Then>, NotAt> {
    check(cluster, revision)?;
    let now = current(cluster, asked);
    let mut body = now.map(|held| held.body());
    let mut its_revision = now.map(|held| held.meta().revision).unwrap_or_default();
    let (mut by, mut ended, mut broken) = (None, None, None);
    let question = Question { object: Some(*asked), ..Question::default() };
    cluster.history.walk(Revision::default(), |record| {
        if !question.fits(&record) {
            return true;
        }
        if record.revision <= revision {
            by = Some(record);
            return false;
        }
        match &record.undo {
            None => body = None,
            Some(undo) => {
                its_revision = undo.revision;
                body = undo.applied_to(body.as_deref().unwrap_or_default());
                if body.is_none() {
                    broken = Some(record.revision);
                    return false;
                }
            }
        }
        ended = Some(record);
        true
    })?;
    if let Some(at) = broken {
        return Err(RecordError::Incomplete(format!("the history's record {at} does not fit its object")).into());
    }
    let Some(body) = body else { return Ok(None) };
    let mut object = record::thaw_body(asked.kind, &body)?;
    match &mut object {
        Stored::Vm(vm) => vm.meta.revision = its_revision,
        Stored::Host(host) => host.meta.revision = its_revision,
        Stored::Image(image) => image.meta.revision = its_revision,
        Stored::InstanceType(instance_type) => instance_type.meta.revision = its_revision,
        Stored::Preference(preference) => preference.meta.revision = its_revision,
    }
    Ok(Some(Then { object, by, ended }))
}

fn current<'a>(cluster: &'a Cluster, asked: &Asked<'_>) -> Option<Held<'a>> {
    match asked.kind {
        ObjectKind::Vm => cluster.vm_by_name(asked.project, asked.name).map(|vm| Held::Vm(vm)),
        ObjectKind::Host => cluster.host_by_name(asked.name).map(|host| Held::Host(host)),
        ObjectKind::Image => cluster.images.get(asked.name).map(|image| Held::Image(image)),
        ObjectKind::Preference => cluster.preferences.get(asked.name).map(|held| Held::Preference(held)),
        ObjectKind::InstanceType => {
            cluster.instance_types.get(asked.name).map(|instance_type| Held::InstanceType(instance_type))
        }
    }
}
