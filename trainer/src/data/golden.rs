//! What pandas and webdataset write is read as they meant it: files under `tests/golden/data`, made
//! by `scripts/data/golden.py`.

use std::path::{Path, PathBuf};

use super::{Classes, Keys, Manifest, Reading};
use crate::Result;

const CAPTIONS: [&str; 4] = ["a red bus", "zwölf Äpfel", "said \"no\", twice", "last"];
const CLASSES: [Option<usize>; 4] = [Some(1), Some(0), Some(1), Some(0)];
const SIDE: u32 = 12;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/data").join(name)
}

fn check(name: &str, keys: Keys) -> Result<Manifest> {
    let labels = ["apple".to_owned(), "bus".to_owned()];
    let classes = Classes::Named { labels: &labels, needed: true };
    let reading = Reading { keys, classes, ..Reading::default() };
    let manifest = Manifest::open_as(&path(name), &reading)?;
    let captions: Vec<&str> = manifest.rows.iter().map(|row| row.caption.as_str()).collect();
    assert_eq!(captions, CAPTIONS);
    assert_eq!(manifest.rows.iter().map(|row| row.class).collect::<Vec<_>>(), CLASSES);
    Ok(manifest)
}

#[test]
fn tables_of_pandas() -> Result<()> {
    let keys = Keys { image: Some("url"), caption: Some("TEXT"), class: Some("label") };
    for name in ["pairs-snappy.parquet", "pairs-zstd.parquet"] {
        let manifest = check(name, keys)?;
        assert_eq!(manifest.rows[3].image, path("images/3.png").into());
    }
    Ok(())
}

#[test]
fn a_shard_of_webdataset() -> Result<()> {
    let manifest = check("pairs.tar", Keys::default())?;
    for (number, row) in manifest.rows.iter().enumerate() {
        let image = row.image.fitted(SIDE)?;
        for (x, y, pixel) in image.enumerate_pixels() {
            let expected = [(31 * x + number as u32) % 256, 17 * y, 5 * (x + y)];
            assert_eq!(pixel.0.map(u32::from), expected, "{row:?}");
        }
    }
    let long = format!("/{}000002.png", "folder/".repeat(20));
    assert!(manifest.rows[2].image.to_string().ends_with(&long));
    Ok(())
}
