//! What belongs together in a shard.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Map, Value};

use super::walk::{Found, walk};
use crate::{
    data::{
        ImageSource, Reading, Row, Skipped,
        image::{Member, Shard},
        manifest::Listed,
        row,
    },
    error::{Error, Result},
};

/// Bytes of a member with a caption or a class as text.
const TEXT_BYTES_MAX: usize = 1 << 16;
/// Bytes of a member with JSON.
const JSON_BYTES_MAX: usize = 1 << 20;

/// What a member is to its sample; members with other endings are of no use here.
#[derive(Debug, Clone, Copy)]
enum Part {
    Image,
    Text,
    Json,
    Class,
}

impl Part {
    fn of(ending: &str) -> Option<Self> {
        Some(match ending.to_ascii_lowercase().as_str() {
            "jpg" | "jpeg" | "png" | "webp" => Self::Image,
            "txt" => Self::Text,
            "json" => Self::Json,
            "cls" => Self::Class,
            _ => return None,
        })
    }
}

/// The members of one key.
#[derive(Default)]
struct Sample {
    image: Option<Member>,
    text: Option<Member>,
    json: Option<Member>,
    class: Option<Member>,
    /// The first that was found wrong with a member.
    problem: Option<Box<Error>>,
}

impl Sample {
    fn add(&mut self, part: Part, Found { member, is_file }: Found) {
        let place = match part {
            Part::Image => &mut self.image,
            Part::Text => &mut self.text,
            Part::Json => &mut self.json,
            Part::Class => &mut self.class,
        };
        let problem = match place {
            _ if !is_file => member.refuse("it is a folder or a link, expected a file"),
            Some(first) => member.refuse(format!("the same sample has `{}` already", first.name)),
            None => {
                *place = Some(member);
                return;
            }
        };
        self.problem.get_or_insert_with(|| problem.into());
    }

    fn row(self, reading: &Reading) -> Result<Row> {
        let Self { image, text, json, class, problem } = self;
        if let Some(problem) = problem {
            return Err(*problem);
        }
        let Some(image) = image else {
            let any = text.or(json).or(class).expect("a sample begins with a member");
            return Err(any.refuse("there is no picture beside it (.jpg, .jpeg, .png, .webp)"));
        };
        let caption = match (text, json) {
            (Some(text), _) => {
                let caption = row::caption(&read(&text, TEXT_BYTES_MAX)?);
                caption.map_err(|problem| text.refuse(problem))?
            }
            (None, Some(json)) => described(&json, reading.keys.caption())?,
            (None, None) => return Err(image.refuse("there is no caption beside it (.txt, .json)")),
        };
        let class = match class {
            Some(class) => {
                let found = reading.classes.of(&read(&class, TEXT_BYTES_MAX)?);
                found.map_err(|problem| class.refuse(problem))?
            }
            None if reading.classes.needed() => {
                return Err(
                    image.refuse("there is no class beside it (.cls), which is needed here")
                );
            }
            None => None,
        };
        Ok(Row { image: ImageSource::Member(image), caption, class })
    }
}

/// A row for each sample, in the order of their first members, numbered from 0. Members of a sample
/// may lie apart.
pub(super) fn rows(shard: &Arc<Shard>, reading: &Reading) -> Result<Vec<Listed>> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut numbers: HashMap<Box<str>, usize> = HashMap::new();
    walk(shard, |found| {
        let Some((key, ending)) = key(&found.member.name) else { return };
        let Some(part) = Part::of(ending) else { return };
        let number = *numbers.entry(key.into()).or_insert(samples.len());
        if number == samples.len() {
            samples.push(Sample::default());
        }
        samples[number].add(part, found);
    })?;
    if samples.is_empty() {
        return Err(shard.refuse("there are no samples in it"));
    }
    let rows = (0..).zip(samples).map(|(row, sample)| match sample.row(reading) {
        Ok(row) => Ok(Ok(row)),
        Err(problem) => skip(row, problem).map(|skipped| Err(skipped.into())),
    });
    rows.collect()
}

/// A sample that cannot be used; an error if it is the shard that cannot be read.
fn skip(row: u32, problem: Error) -> Result<Skipped> {
    match &problem {
        Error::Shard { shard, member: Some(member), .. } => {
            let (file, path) = (shard.clone(), format!("{}/{member}", shard.display()));
            Ok(Skipped { row, file, path, rows: 1, problem })
        }
        _ => Err(problem),
    }
}

/// A name up to the first dot of its last part, and what follows; `None` for a hidden file.
fn key(name: &str) -> Option<(&str, &str)> {
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = last + name[last..].find('.')?;
    (dot > last).then(|| (&name[..dot], &name[dot + 1..]))
}

fn read(member: &Member, bytes_max: usize) -> Result<String> {
    let bytes = member.read(bytes_max)?;
    if bytes.len() > bytes_max {
        return Err(member.refuse(format!("it has more than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| member.refuse("it is not UTF-8"))
}

/// The text of `key` in a JSON object.
fn described(json: &Member, key: &str) -> Result<String> {
    let text = read(json, JSON_BYTES_MAX)?;
    let object: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|error| json.refuse(format!("it is no JSON object: {error}")))?;
    let caption = object.get(key).and_then(Value::as_str);
    let caption = caption
        .ok_or_else(|| json.refuse(format!("it has no text `{key}`, and there is no .txt")))?;
    row::caption(caption).map_err(|problem| json.refuse(problem))
}
