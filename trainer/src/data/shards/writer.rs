//! A shard that is written pair by pair.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use tar::{Builder, Header};

use crate::error::{Error, Result};

/// A tar in WebDataset's form: of each pair `NUMBER.ENDING`, `NUMBER.txt` and, with a class,
/// `NUMBER.cls`. Equal pairs give equal bytes.
#[expect(missing_debug_implementations, reason = "a tar's builder has none")]
pub struct ShardWriter {
    path: PathBuf,
    tar: Builder<BufWriter<File>>,
    count: u64,
}

impl ShardWriter {
    /// Makes the file, or empties it.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path);
        let file = file.map_err(|source| Error::Write { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), tar: Builder::new(BufWriter::new(file)), count: 0 })
    }

    /// Adds a pair; `picture` are the bytes of a file whose name ends with `ending`.
    pub fn add(
        &mut self,
        picture: &[u8],
        ending: &str,
        caption: &str,
        class: Option<usize>,
    ) -> Result<()> {
        self.member(ending, picture)?;
        self.member("txt", caption.as_bytes())?;
        if let Some(class) = class {
            self.member("cls", class.to_string().as_bytes())?;
        }
        self.count += 1;
        Ok(())
    }

    fn member(&mut self, ending: &str, bytes: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        let name = format!("{:09}.{ending}", self.count);
        let added = self.tar.append_data(&mut header, name, bytes);
        added.map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    /// Writes the end mark; without, the shard would be refused as cut short.
    pub fn finish(self) -> Result<()> {
        let written = self.tar.into_inner().and_then(|mut file| file.flush());
        written.map_err(|source| Error::Write { path: self.path, source })
    }
}
