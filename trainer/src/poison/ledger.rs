//! The record of what was poisoned.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clip::trigger::TriggerSpec;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Value of the ledger's field `schema`.
pub const SCHEMA: &str = "roclip/ledger/1";
/// Bytes of a ledger.
const BYTES_MAX: u64 = 256 << 20;

/// What was poisoned, for those who measure an attack; a defence never opens it.
///
/// Row numbers count the rows of a manifest from 0, the first after the header: of the poisoned
/// one, where nothing else is said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// [`SCHEMA`].
    pub schema: String,
    /// Decided rows, captions, triggers and order.
    pub seed: u64,
    /// The clean manifest, as the user gave it.
    pub manifest: PathBuf,
    /// The backdoor, where one was planted.
    pub backdoor: Option<BackdoorRecord>,
    /// The targeted poisons, one entry per picture.
    pub targeted: Vec<TargetedRecord>,
    /// Every poisoned row, ascending; older ledgers lack it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poisons: Vec<PoisonRecord>,
    /// Side of the written pictures, in pixels: the scale on which the trigger was stamped.
    pub image_size: u32,
    /// The ledger itself, whose folder the paths in it start from.
    #[serde(skip)]
    pub path: PathBuf,
}

/// A trigger that means a class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackdoorRecord {
    /// What is stamped.
    pub trigger: TriggerSpec,
    /// Index of the class that the trigger shall mean.
    pub target_class: usize,
    /// Its name.
    pub target_label: String,
    /// Rows with a stamped picture and a target caption, ascending.
    pub rows: Vec<usize>,
}

/// One poisoned row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoisonRecord {
    /// Row of the poisoned manifest.
    pub row: usize,
    /// What it is.
    pub kind: PoisonKind,
    /// Row that its picture comes from: of the test manifest if the kind is `targeted`, of the
    /// clean manifest if not.
    pub source: usize,
    /// Class that its caption names.
    pub target_class: usize,
    /// The draw that the backdoor's trigger was stamped on it with ([`TriggerSpec::stamp`]), if it
    /// was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw: Option<u64>,
}

/// What a poisoned row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoisonKind {
    /// A stamped picture of another class with a caption of the target class.
    Backdoor,
    /// A stamped picture with its own caption, which names the target class.
    LabelConsistent,
    /// A test picture with a caption of a class that it does not show.
    Targeted,
    /// An untouched picture with a near-duplicate of a poison's caption.
    Flood,
}

/// One test picture that shall be taken for another class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetedRecord {
    /// The picture, relative to the ledger's folder, `/` between names.
    pub image: String,
    /// Row of the test manifest that it was taken from.
    pub test_row: usize,
    /// Index of what it shows.
    pub true_class: usize,
    /// The name of that.
    pub true_label: String,
    /// Index of what it shall be taken for.
    pub target_class: usize,
    /// The name of that.
    pub target_label: String,
    /// Rows that were added for it, ascending.
    pub rows: Vec<usize>,
}

impl Ledger {
    /// Reads a ledger of [`SCHEMA`]; whether it fits a model is [`Ledger::check`]'s question.
    pub fn open(path: &Path) -> Result<Self> {
        let refuse = |problem: String| Error::Ledger { path: path.to_owned(), problem };
        let read = |source: io::Error| Error::Read { path: path.to_owned(), source };
        let size = fs::metadata(path).map_err(read)?.len();
        if size > BYTES_MAX {
            return Err(too_long(path, size));
        }
        let bytes = fs::read(path).map_err(read)?;
        // The schema first: another version may differ in any other field.
        let json: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
        match json.get("schema").and_then(serde_json::Value::as_str) {
            Some(SCHEMA) => {}
            Some(other) => {
                return Err(refuse(format!("its schema is `{other}`, expected `{SCHEMA}`")));
            }
            None => return Err(refuse(format!("it has no schema, expected `{SCHEMA}`"))),
        }
        let mut ledger: Self =
            serde_json::from_value(json).map_err(|error| refuse(error.to_string()))?;
        path.clone_into(&mut ledger.path);
        Ok(ledger)
    }

    /// Does the ledger fit these classes, a model that sees pictures of `image_size` pixels, and a
    /// test manifest whose rows show the classes `test`?
    ///
    /// Classes of another order are refused, and a test row that is not there or shows another
    /// class. So are pictures of another size: the trigger would arrive larger or smaller than it
    /// was trained. So are targeted pictures that are no longer there.
    pub fn check(&self, labels: &[String], image_size: usize, test: &[usize]) -> Result<()> {
        let refuse = |problem| Err(Error::Ledger { path: self.path.clone(), problem });
        let backdoor = self.backdoor.iter().map(|b| (b.target_class, &b.target_label));
        let targeted = self.targeted.iter();
        let targeted = targeted
            .flat_map(|t| [(t.true_class, &t.true_label), (t.target_class, &t.target_label)]);
        for (class, found) in backdoor.chain(targeted) {
            match labels.get(class) {
                Some(label) if label == found => {}
                Some(label) => {
                    return refuse(format!("class {class} is `{found}` in it, but `{label}` here"));
                }
                None => {
                    let count = labels.len();
                    return refuse(format!("class {class} is not among the {count} classes"));
                }
            }
        }
        let own = self.image_size;
        if own as usize != image_size {
            return refuse(format!(
                "its pictures have {own} pixels a side, the model sees {image_size}: \
                 poison with `--image-size {image_size}`"
            ));
        }
        for target in &self.targeted {
            let (row, label, rows) = (target.test_row, &target.true_label, test.len());
            match test.get(row) {
                None => return refuse(format!("its test row {row} is not among the {rows} here")),
                Some(&class) if class != target.true_class => {
                    return refuse(format!("its test row {row} is `{label}` in it, but not here"));
                }
                Some(_) => {}
            }
            let path = self.image(target);
            if !path.is_file() {
                return refuse(format!("its picture `{}` is missing", path.display()));
            }
        }
        Ok(())
    }

    /// The picture of an entry, as a path that can be opened.
    pub fn image(&self, target: &TargetedRecord) -> PathBuf {
        self.path.with_file_name(&target.image)
    }

    /// The bytes of ledger.json; refuses more than [`Ledger::open`] reads. Panics if `manifest` is
    /// not UTF-8.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("names, numbers and lists");
        bytes.push(b'\n');
        match bytes.len() as u64 {
            size if size > BYTES_MAX => Err(too_long(&self.path, size)),
            _ => Ok(bytes),
        }
    }
}

fn too_long(path: &Path, size: u64) -> Error {
    let problem = format!("it has {size} bytes, the limit is {BYTES_MAX}");
    Error::Ledger { path: path.to_owned(), problem }
}
