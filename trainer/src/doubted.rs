//! `doubted.csv`: the pairs that a method does not trust, for people to look at.

use std::collections::HashMap;

use csv::Writer;

use crate::data::Store;

/// File name in the run's folder.
pub const FILE: &str = "doubted.csv";

/// A pair that a method does not trust.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Doubted {
    /// Data-set row, counted from 0
    pub row: u32,
    /// How well it agrees: in nats, at most 0, or a cosine, as the method asks
    pub agreement: f32,
    /// Share of its neighbors that are in doubt by themselves, if the method knows any
    pub company: Option<f32>,
    /// How much more the captions of pictures like its own owe to one quarter of the picture than
    /// to any other, in nats, if that is why it is in doubt
    pub keystone: Option<f32>,
    /// Whether its picture is learned with other captions for a while
    pub recaptioned: bool,
}

/// `row,agreement,company,keystone,copies,recaptioned,path,caption`, rows counted from 0 as in a
/// ledger, the worst pair first. Copies are the pairs with the same picture, itself among them.
pub fn to_csv(store: &Store, mut doubted: Vec<Doubted>) -> Vec<u8> {
    doubted.sort_by(|a, b| a.agreement.total_cmp(&b.agreement));
    let mut copies: HashMap<u32, u32> = HashMap::new();
    for &row in store.rows() {
        *copies.entry(store.picture_number(row)).or_default() += 1;
    }
    let mut writer = Writer::from_writer(Vec::new());
    let memory = "memory takes every record of the header's width";
    let header =
        ["row", "agreement", "company", "keystone", "copies", "recaptioned", "path", "caption"];
    writer.write_record(header).expect(memory);
    for Doubted { row, agreement, company, keystone, recaptioned } in doubted {
        let (number, agreement) = (row.to_string(), format!("{agreement:.3}"));
        let [company, keystone] =
            [company, keystone].map(|known| known.map_or_else(String::new, |x| format!("{x:.2}")));
        let copies =
            copies.get(&store.picture_number(row)).map_or_else(String::new, u32::to_string);
        let recaptioned = if recaptioned { "yes" } else { "no" };
        let (path, caption) = (store.image(row).to_string(), store.caption(row));
        let record =
            [&number, &agreement, &company, &keystone, &copies, recaptioned, &path, caption];
        writer.write_record(record).expect(memory);
    }
    writer.into_inner().expect("memory can always be flushed")
}

#[cfg(test)]
mod tests {
    use clip::image::{RgbImage, encode_png};

    use super::*;
    use crate::data::{Manifest, Row};

    #[test]
    fn the_worst_pair_comes_first_and_equal_ones_as_they_are_in_the_data() {
        let row = |at: usize| Row {
            image: format!("{at}.png").into(),
            caption: if at == 3 { "a \"hat\", red".to_owned() } else { format!("thing {at}") },
            class: None,
        };
        let manifest = Manifest { path: "train.csv".into(), rows: (0..5).map(row).collect() };
        // The pictures are not there: nobody looks at them.
        let store = Store::open(manifest, 8, 0, 1.0, || ()).expect("all rows may be unreadable");
        let pair = |row, agreement, company: Option<f32>, recaptioned| {
            let keystone = company.map(|share| 3.0 * share);
            Doubted { row, agreement, company, keystone, recaptioned }
        };
        let doubted = vec![
            pair(0, -1.0, Some(0.5), false),
            pair(1, -7.25, None, false),
            pair(3, -9.0, Some(1.0), true),
            pair(4, -7.25, Some(0.0), false),
        ];
        let csv = String::from_utf8(to_csv(&store, doubted)).expect("text");
        assert_eq!(
            csv,
            "row,agreement,company,keystone,copies,recaptioned,path,caption\n\
             3,-9.000,1.00,3.00,,yes,3.png,\"a \"\"hat\"\", red\"\n\
             1,-7.250,,,,no,1.png,thing 1\n\
             4,-7.250,0.00,0.00,,no,4.png,thing 4\n\
             0,-1.000,0.50,1.50,,no,0.png,thing 0\n"
        );
    }

    #[test]
    fn pairs_with_the_same_picture_are_counted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pixel = |x: u32, y: u32, at: u32| [(x * 37 + y * 91 + at * x * y * 13) as u8; 3].into();
        for at in 0..2 {
            let picture = encode_png(&RgbImage::from_fn(32, 32, |x, y| pixel(x, y, at)));
            std::fs::write(folder.path().join(format!("{at}.png")), picture).expect("writable");
        }
        let row = |name: &str| Row {
            image: folder.path().join(name).into(),
            caption: "thing".to_owned(),
            class: None,
        };
        let rows = ["0.png", "no.png", "1.png", "0.png"].map(row).to_vec();
        let manifest = Manifest { path: "train.csv".into(), rows };
        let store = Store::open(manifest, 32, 0, 0.5, || ()).expect("three of four rows");
        let pair = |row| Doubted { row, agreement: -1.0, ..Default::default() };
        let csv = String::from_utf8(to_csv(&store, [0, 2, 3].map(pair).to_vec())).expect("text");
        let lines = csv.lines().skip(1);
        let copies: Vec<&str> = lines.filter_map(|line| line.split(',').nth(4)).collect();
        assert_eq!(copies, ["2", "1", "2"], "{csv}");
    }
}
