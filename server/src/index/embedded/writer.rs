//! The writer: every change of the store, and what follows from it in memory.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError, RwLock, atomic::Ordering, mpsc::Receiver},
    time::Instant,
};

use terminal::say;

use super::{
    super::{
        IndexName, VectorWrite,
        hnsw::Hnsw,
        store::{Record, Writing},
    },
    Change, Command, Contents, IndexError, Opened, Outcome, Shelf,
};
use crate::observe::metrics::{Shed, Stage};

/// Changes made durable in one go.
const GROUP_MAX: usize = 64;

impl Shelf {
    /// The writer's thread: ends when nobody can send any more.
    pub(super) fn write(&self, commands: Receiver<Command>) {
        while let Ok(first) = commands.recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && let Ok(next) = commands.try_recv()
            {
                group.push(next);
            }
            let waiting = group.len();
            group.retain(|command| !command.reply.is_closed());
            self.metrics.shed(Shed::Gone, waiting - group.len());
            let write = AssertUnwindSafe(|| self.write_group(group));
            if catch_unwind(write).is_err() {
                self.fail("the writer panicked"); // its replies are dropped: not durable
            }
        }
    }

    fn write_group(&self, group: Vec<Command>) {
        if group.is_empty() {
            return;
        }
        let begin = Instant::now();
        let (changes, replies): (Vec<_>, Vec<_>) =
            group.into_iter().map(|command| (command.change, command.reply)).unzip();
        let failed = self.failed.load(Ordering::Acquire);
        let durable = if failed {
            Err(IndexError::Storage("an earlier write failed".into()))
        } else {
            self.make_durable(&changes).inspect_err(|error| self.fail(&error.to_string()))
        };
        match durable {
            Ok(outcomes) => {
                for (change, outcome) in changes.into_iter().zip(&outcomes) {
                    if let Ok((record, _)) = outcome {
                        self.bring_up_to_date(change, record);
                    }
                }
                self.report();
                self.metrics.stage(Stage::Write, begin);
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    let _ = reply.send(outcome.map(|(_, outcome)| outcome)); // may have left
                }
                self.tending.ask();
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(error.clone())); // the client may have left
                }
            }
        }
    }

    /// No change is taken any more.
    fn fail(&self, why: &str) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            say(format!("error: unwell until the server is started again: {why}"));
        }
    }

    /// One transaction. The outer error is the disk's and concerns all; an inner one concerns its
    /// change only, of which nothing was written.
    #[expect(clippy::type_complexity, reason = "one result per change")]
    fn make_durable(
        &self,
        changes: &[Change],
    ) -> Result<Vec<Result<(Record, Outcome), IndexError>>, IndexError> {
        let writing = self.store.begin()?;
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            outcomes.push(match self.apply(&writing, change) {
                Err(error @ IndexError::Storage(_)) => return Err(error),
                outcome => outcome,
            });
        }
        writing.commit()?;
        Ok(outcomes)
    }

    /// Checks before it writes: an error other than `Storage` left the transaction as it was.
    fn apply(&self, writing: &Writing, change: &Change) -> Result<(Record, Outcome), IndexError> {
        let known = |name: &IndexName| {
            writing.record(name)?.ok_or_else(|| IndexError::Unknown(name.clone()))
        };
        let done = |record, created| Ok((record, Outcome::Done { created }));
        match change {
            Change::Create(name) => match writing.record(name)? {
                Some(record) if record.model == self.model => done(record, false),
                Some(record) => Err(self.other_model(name, &record)),
                None => {
                    self.check_room(writing, 1, 0)?;
                    done(writing.create(name, &self.model)?, true)
                }
            },
            Change::Delete(name) => {
                let record = known(name)?;
                writing.delete(name, record.number)?;
                done(record, false)
            }
            Change::Upsert(name, items) => {
                let record = writing.record(name)?;
                if let Some(record) = record.as_ref().filter(|record| record.model != self.model) {
                    return Err(self.other_model(name, record));
                }
                let mut new = items.len();
                if let Some(record) = &record {
                    for item in items {
                        new -= usize::from(writing.contains(record.number, &item.id)?);
                    }
                }
                self.check_room(writing, usize::from(record.is_none()), new)?;
                let created = record.is_none();
                let record = match record {
                    Some(record) => record,
                    None => writing.create(name, &self.model)?,
                };
                for item in items {
                    writing.upsert(record.number, item)?;
                }
                done(record, created)
            }
            Change::Remove(name, id) => {
                let record = known(name)?;
                if record.model != self.model {
                    return Err(self.other_model(name, &record));
                }
                if !writing.remove(record.number, id)? {
                    return Err(IndexError::UnknownItem(name.clone()));
                }
                done(record, false)
            }
        }
    }

    fn check_room(
        &self,
        writing: &Writing,
        indexes: usize,
        items: usize,
    ) -> Result<(), IndexError> {
        let limits = [
            ("indexes", indexes, writing.indexes()?, self.limits.indexes_max),
            ("items of all indexes", items, writing.items()?, self.limits.index_items_max),
        ];
        for (what, more, there, max) in limits {
            if more > 0 && there + more > max {
                return Err(IndexError::Limit { what, found: there + more, max });
            }
        }
        Ok(())
    }

    /// Does in memory what is durable already.
    fn bring_up_to_date(&self, change: Change, record: &Record) {
        match change {
            Change::Create(name) => drop(self.opened(&name, record)),
            Change::Delete(name) => {
                let mut indexes = self.indexes.write().unwrap_or_else(PoisonError::into_inner);
                indexes.remove(&name);
                drop(indexes);
                self.metrics.forget_index(name.as_str());
            }
            Change::Upsert(name, items) => {
                let opened = self.opened(&name, record);
                if let Contents::Usable(vectors) = &opened.contents {
                    let mut vectors = vectors.write().unwrap_or_else(PoisonError::into_inner);
                    items.into_iter().for_each(|item| vectors.upsert(item.id, &item.row));
                }
            }
            Change::Remove(name, id) => {
                let opened = self.opened(&name, record);
                if let Contents::Usable(vectors) = &opened.contents {
                    vectors.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
                }
            }
        }
    }

    /// The index in memory, made if it is new.
    fn opened(&self, name: &IndexName, record: &Record) -> Arc<Opened> {
        let mut indexes = self.indexes.write().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            let rows = Hnsw::new(self.model.dim, self.limits.exact_items_max);
            Arc::new(Opened::new(record.clone(), Contents::Usable(RwLock::new(rows))))
        };
        Arc::clone(indexes.entry(name.clone()).or_insert_with(made))
    }
}
