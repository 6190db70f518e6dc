//! `skipped.csv`: the rows that a run trains without, for people to look at.

use std::error::Error;

use csv::Writer;

use crate::data::{Skipped, Store};

/// File name in the run's folder.
pub const FILE: &str = "skipped.csv";

/// `row,path,problem`, rows counted from 0 as in a ledger.
pub fn to_csv(store: &Store) -> Vec<u8> {
    let mut writer = Writer::from_writer(Vec::new());
    let memory = "memory takes every record of the header's width";
    writer.write_record(["row", "path", "problem"]).expect(memory);
    for Skipped { row, problem } in store.skipped() {
        let path = store.image(*row).to_string();
        writer.write_record([&row.to_string(), &path, &chain(problem)]).expect(memory);
    }
    writer.into_inner().expect("memory can always be flushed")
}

/// An error and what caused it, on one line.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
