//! The replicated machine as the log drives it: records in, answers out, and word to the readers of this member.

use std::io::{Read, Write};

use berth_control::Publisher;
use berth_raft::{BoxError, Entry, StateMachine};
use berth_state::{Cluster, apply, record};
use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;

use crate::guard::Halt;

/// The state of this member, and where its changes go.
#[derive(Debug)]
pub(crate) struct Machine {
    cluster: Cluster,
    publisher: Publisher,
    halt: Halt,
    commands: Counter,
}

impl Machine {
    pub(crate) fn new(publisher: Publisher, halt: Halt) -> Self {
        Self { cluster: Cluster::default(), publisher, halt, commands: Counter::default() }
    }

    /// The same, and each command that it applies is counted here.
    pub(crate) fn counting(self, commands: Counter) -> Self {
        Self { commands, ..self }
    }
}

impl StateMachine for Machine {
    type Snapshot = Cluster;

    /// A record that cannot be read halts this member, which the log does when its machine panics: it is never
    /// skipped (law 11). The process lives on and says why it does not serve.
    fn apply(&mut self, entries: &[Entry]) -> Vec<Bytes> {
        if let Some(why) = self.halt.fatal() {
            panic!("BE-5031: this controller serves no more: {why}");
        }
        let mut answers = Vec::with_capacity(entries.len());
        let mut all_changes = Vec::new();
        for entry in entries {
            let batch = record::decode_batch(&entry.payload)
                .unwrap_or_else(|why| panic!("entry {} cannot be read: {why}", entry.index));
            let (applied, changes) = apply::apply(&mut self.cluster, &batch);
            self.commands.inc_by(batch.commands.len() as u64);
            let answer = record::encode_answers(&applied)
                .unwrap_or_else(|why| panic!("the answer to entry {} cannot be written: {why}", entry.index));
            answers.push(Bytes::from(answer));
            all_changes.extend(changes);
        }
        self.publisher.applied(&self.cluster, &all_changes);
        answers
    }

    fn snapshot(&self) -> Cluster {
        self.cluster.clone()
    }

    fn write(snapshot: &Cluster, out: &mut dyn Write) -> Result<(), BoxError> {
        Ok(record::write_snapshot(snapshot, out)?)
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), BoxError> {
        self.cluster = record::read_snapshot(from)?;
        self.publisher.replaced(&self.cluster);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
