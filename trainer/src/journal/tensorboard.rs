//! `events.out.tfevents.*`: the curves of a run, as TensorBoard reads them.
//!
//! A file is a sequence of records (TensorFlow's TFRecord): the length as u64, its checksum, the
//! message, its checksum, all little-endian. A message is a protobuf `Event` (TensorFlow's
//! `event.proto`) of which four fields are used, so that they are written by hand:
//!
//! | message | field | number |
//! |---|---|---|
//! | `Event` | `wall_time` double · `step` int64 | 1 · 2 |
//! | | `file_version` string · `summary` · `session_log` | 3 · 5 · 7 |
//! | `Summary` | `value`, repeated | 1 |
//! | `Summary.Value` | `tag` string · `simple_value` float | 1 · 2 |
//! | `SessionLog` | `status`, 1 for START | 1 |
//!
//! A resumed run begins a file of its own with a START at its next step. At that, readers forget
//! what earlier files say of this and later steps.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::error::{Error, Result};

/// What the names of the files begin with; the number that follows orders them.
const NAME: &str = "events.out.tfevents.";
/// What readers forget steps at a START for.
const VERSION: &str = "brain.Event:2";

/// An open file of events.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// A new file in `folder`, after those that are there, for a run that has done `step` updates.
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        let refuse = |source| Error::Write { path: folder.to_owned(), source };
        let names = fs::read_dir(folder).map_err(refuse)?.map(|entry| Ok(entry?.file_name()));
        let names: Vec<_> = names.collect::<io::Result<_>>().map_err(refuse)?;
        let numbers = names.iter().filter_map(|name| {
            name.to_str()?.strip_prefix(NAME)?.split('.').next()?.parse::<u32>().ok()
        });
        let number = numbers.max().map_or(0, |last| last + 1);
        let path = folder.join(format!("{NAME}{number:010}.roclip"));
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = file.map_err(|source| Error::Write { path: path.clone(), source })?;
        let mut events = Self { path, file };
        events.write(&version(now()))?;
        events.write(&start(now(), step + 1))?;
        Ok(events)
    }

    /// A point of the curve `group/key` for each number in `entry`, at its `step`; of an object
    /// with a `value`, as a rate is one, that alone. An entry without a number adds nothing.
    pub fn plot(&mut self, group: &str, entry: &Value) -> Result<()> {
        let Some(step) = entry["step"].as_u64() else { return Ok(()) };
        let mut points = Vec::new();
        for (key, value) in
            entry.as_object().into_iter().flatten().filter(|(key, _)| *key != "step")
        {
            collect(format!("{group}/{key}"), value, &mut points);
        }
        if points.is_empty() { Ok(()) } else { self.write(&scalars(now(), step, &points)) }
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        let write = self.file.write_all(&record(event)); // whole: a reader may look at any time
        write.map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

/// The numbers in `value` with their names.
fn collect(tag: String, value: &Value, points: &mut Vec<(String, f32)>) {
    let number = value.get("value").unwrap_or(value).as_f64();
    match (number, value) {
        (Some(number), _) => points.push((tag, number as f32)),
        (None, Value::Object(fields)) => {
            fields.iter().for_each(|(key, value)| collect(format!("{tag}/{key}"), value, points));
        }
        _ => {}
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn version(wall_time: f64) -> Vec<u8> {
    let mut event = time(wall_time);
    bytes(&mut event, 3, VERSION.as_bytes());
    event
}

fn start(wall_time: f64, step: u64) -> Vec<u8> {
    let mut event = time(wall_time);
    number(&mut event, 2, step);
    let mut log = Vec::new();
    number(&mut log, 1, 1);
    bytes(&mut event, 7, &log);
    event
}

fn scalars(wall_time: f64, step: u64, points: &[(String, f32)]) -> Vec<u8> {
    let mut event = time(wall_time);
    number(&mut event, 2, step);
    let mut summary = Vec::new();
    for (tag, point) in points {
        let mut value = Vec::new();
        bytes(&mut value, 1, tag.as_bytes());
        value.push(2 << 3 | FIXED32);
        value.extend(point.to_le_bytes());
        bytes(&mut summary, 1, &value);
    }
    bytes(&mut event, 5, &summary);
    event
}

/// How a field of protobuf is written: the low bits of its key, below its number.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

fn time(wall_time: f64) -> Vec<u8> {
    let mut event = vec![1 << 3 | FIXED64];
    event.extend(wall_time.to_le_bytes());
    event
}

fn number(message: &mut Vec<u8>, field: u8, value: u64) {
    message.push(field << 3 | VARINT);
    varint(message, value);
}

fn bytes(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    message.push(field << 3 | LENGTH);
    varint(message, value.len() as u64);
    message.extend(value);
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let (of_length, of_message) = (masked_crc(&length), masked_crc(message));
    [&length[..], &of_length.to_le_bytes(), message, &of_message.to_le_bytes()].concat()
}

/// TFRecord's checksum: a CRC of data that hold CRCs is weak, so it is turned and shifted.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a record has some hundred bytes.
fn crc32c(data: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78; // reflected
    let byte = |crc: u32, &byte: &u8| {
        let bit = |crc: u32, _| (crc >> 1) ^ (POLYNOMIAL * (crc & 1));
        (0..8).fold(crc ^ u32::from(byte), bit)
    };
    !data.iter().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The check value of the catalogue of CRCs, and of RFC 3720, appendix B.4.
    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    /// Bytes that Google's protobuf for Python makes of these events with TensorBoard 2.21's
    /// `event.proto`, framed by a CRC-32C written in Python.
    #[test]
    fn records_are_those_of_other_software() {
        let check = |event: Vec<u8>, expected: &str| assert_eq!(hex(&record(&event)), expected);
        check(
            version(1.5),
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c",
        );
        check(start(1.5, 300), "100000000000000095fbfe1809000000000000f83f10ac023a020801713b788a");
        let points = [("train/loss".to_owned(), 0.25), ("train/lr".to_owned(), 0.0)];
        check(
            scalars(1.5, 300, &points),
            "3200000000000000241956ec09000000000000f83f10ac022a240a110a0a747261696e2f6c6f7373\
             150000803e0a0f0a08747261696e2f6c7215000000003016f707",
        );
    }

    #[test]
    fn every_number_of_an_entry_is_a_point() {
        let check = |value: Value, expected: &[(&str, f32)]| {
            let mut points = Vec::new();
            collect("a".into(), &value, &mut points);
            let expected: Vec<_> =
                expected.iter().map(|(tag, at)| (tag.to_string(), *at)).collect();
            assert_eq!(points, expected);
        };
        check(json!(2), &[("a", 2.0)]);
        check(json!("match"), &[]);
        check(json!(null), &[]);
        check(json!({ "b": 1.5, "c": { "d": 2 } }), &[("a/b", 1.5), ("a/c/d", 2.0)]);
        check(json!({ "asr": { "value": 0.5, "trials": 8 } }), &[("a/asr", 0.5)]);
    }

    #[test]
    fn each_resumption_has_a_file_after_the_others() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for _ in 0..3 {
            Events::create(folder.path(), 7)?.plot("step", &json!({ "step": 8, "loss": 1 }))?;
        }
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("ours"))
            .collect();
        names.sort();
        let expected = [0, 1, 2].map(|number| format!("{NAME}{number:010}.roclip"));
        assert_eq!(names, expected);
        Ok(())
    }
}
