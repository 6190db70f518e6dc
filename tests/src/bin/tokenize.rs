//! Ids of OpenAI's vocabulary for `scripts/tokenizer/check.py`: `tokenize TEXTS FOLDER` reads a JSON
//! list of texts and writes `FOLDER/<name>.json`, the ids of each text up to the end mark, and the
//! tokenizer.json of an exported model, `FOLDER/<name>.tokenizer.json`, for each name.

use std::{env, fs, path::PathBuf, process::ExitCode};

use clip::text::{Cleaning, Tokenizer};
use terminal::{Exit, Report};

fn main() -> ExitCode {
    terminal::run("tokenize", || {
        let [texts, folder] = env::args()
            .skip(1)
            .map(PathBuf::from)
            .collect::<Vec<_>>()
            .try_into()
            .map_err(|_| Report::new("usage: tokenize TEXTS FOLDER"))?;
        let texts: Vec<String> = serde_json::from_slice(&fs::read(texts)?)?;
        for (name, cleaning) in Cleaning::NAMED {
            let tokenizer = Tokenizer::openai(cleaning)?;
            let batch = tokenizer.encode(&texts)?;
            let until_end = |row: &[u32]| {
                let end = row.iter().position(|id| *id == tokenizer.end());
                row[..=end.expect("every row has an end mark")].to_vec()
            };
            let rows: Vec<_> = batch.rows().map(until_end).collect();
            fs::write(folder.join(format!("{name}.json")), serde_json::to_vec(&rows)?)?;
            fs::write(folder.join(format!("{name}.tokenizer.json")), tokenizer.to_json()?)?;
        }
        Ok(Exit::Done)
    })
}
