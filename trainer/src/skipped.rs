//! `skipped.csv`: the rows that a run trains without, for people to look at.

use csv::Writer;

use crate::{
    data::{Place, Skipped, Store},
    error::{Error, one_line},
};

/// File name in the run's folder.
pub const FILE: &str = "skipped.csv";

/// `row,file,path,problem`, rows counted from 0 as in a ledger.
pub fn to_csv(store: &Store) -> Vec<u8> {
    let mut writer = Writer::from_writer(Vec::new());
    let memory = "memory takes every record of the header's width";
    writer.write_record(["row", "file", "path", "problem"]).expect(memory);
    for Skipped { row, file, path, problem, .. } in store.skipped() {
        let (row, file) = (row.to_string(), file.display().to_string());
        writer.write_record([&row, &file, path, &told(problem)]).expect(memory);
    }
    writer.into_inner().expect("memory can always be flushed")
}

/// A problem without what other columns tell.
fn told(problem: &Error) -> String {
    match problem {
        Error::Manifest { at: Place::Row { line: Some(line), .. }, problem, .. } => {
            format!("line {line}: {problem}")
        }
        Error::Manifest { problem, .. } | Error::Shard { problem, .. } => problem.clone(),
        other => one_line(other),
    }
}
