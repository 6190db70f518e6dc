//! `doubted.csv`: the pairs that a method does not trust, for people to look at.

use csv::Writer;

use crate::data::Store;

/// File name in the run's folder.
pub const FILE: &str = "doubted.csv";

/// A pair that a method does not trust.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Doubted {
    /// Data-set row, counted from 0
    pub row: u32,
    /// How well it agrees: in nats, at most 0, or a cosine, as the method asks
    pub agreement: f32,
    /// Share of its neighbors that are in doubt by themselves, if the method knows any
    pub company: Option<f32>,
    /// Whether its picture is learned with other captions for a while
    pub recaptioned: bool,
}

/// `row,agreement,company,recaptioned,path,caption`, rows counted from 0 as in a ledger, the worst
/// pair first.
pub fn to_csv(store: &Store, mut doubted: Vec<Doubted>) -> Vec<u8> {
    doubted.sort_by(|a, b| a.agreement.total_cmp(&b.agreement));
    let mut writer = Writer::from_writer(Vec::new());
    let memory = "memory takes every record of the header's width";
    writer
        .write_record(["row", "agreement", "company", "recaptioned", "path", "caption"])
        .expect(memory);
    for Doubted { row, agreement, company, recaptioned } in doubted {
        let (number, agreement) = (row.to_string(), format!("{agreement:.3}"));
        let company = company.map_or_else(String::new, |share| format!("{share:.2}"));
        let recaptioned = if recaptioned { "yes" } else { "no" };
        let (path, caption) = (store.image(row).to_string(), store.caption(row));
        writer
            .write_record([&number, &agreement, &company, recaptioned, &path, caption])
            .expect(memory);
    }
    writer.into_inner().expect("memory can always be flushed")
}
