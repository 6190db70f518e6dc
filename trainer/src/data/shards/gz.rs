//! Compressed shards: unpacked once, as a stream, into a folder of their own.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use clip::{atomic_write::atomic_file, folder::hex};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Bytes of one shard when unpacked.
const UNPACKED_BYTES_MAX: u64 = 64 << 30;
const BUFFER_BYTES: usize = 1 << 16;

/// The tar of a compressed shard, in `folder`. What was unpacked before is taken if size and time of
/// the shard are as they were: they are in the file's name. The file appears whole or not at all.
pub(super) fn unpacked(shard: &Path, folder: Option<&Path>) -> Result<PathBuf> {
    let refuse = |problem: String| Error::Shard { shard: shard.to_owned(), member: None, problem };
    let Some(folder) = folder else {
        let problem = "it is compressed, and there is no `--cache-folder` to unpack it in";
        return Err(refuse(problem.into()));
    };
    let unreadable = |source| Error::Read { path: shard.to_owned(), source };
    let tar = folder.join(name(shard).map_err(unreadable)?);
    if tar.is_file() {
        return Ok(tar);
    }
    let file = File::open(shard).map_err(unreadable)?;
    let packed = BufReader::with_capacity(BUFFER_BYTES, file);
    let decoder = MultiGzDecoder::new(packed);
    if decoder.header().is_none() {
        return Err(refuse("it cannot be unpacked: it is no gzip".into())); // and makes no folder
    }
    let mut bytes = decoder.take(UNPACKED_BYTES_MAX + 1);
    let unwritable = |source| Error::Write { path: tar.clone(), source };
    atomic_file(&tar, |file| match copy(&mut bytes, file) {
        Ok(count) if count > UNPACKED_BYTES_MAX => {
            Err(refuse(format!("unpacked, it has more than {UNPACKED_BYTES_MAX} bytes")))
        }
        Ok(_) => Ok(()),
        Err(Copy::Read(error)) => Err(refuse(format!("it cannot be unpacked: {error}"))),
        Err(Copy::Write(error)) => Err(unwritable(error)),
    })?;
    Ok(tar)
}

/// Which half of copying failed.
enum Copy {
    Read(io::Error),
    Write(io::Error),
}

fn copy(from: &mut impl Read, to: &mut impl io::Write) -> Result<u64, Copy> {
    let (mut buffer, mut count) = (vec![0; BUFFER_BYTES], 0);
    loop {
        match from.read(&mut buffer).map_err(Copy::Read)? {
            0 => return Ok(count),
            length => {
                to.write_all(&buffer[..length]).map_err(Copy::Write)?;
                count += length as u64;
            }
        }
    }
}

/// `STEM-HASH.tar`, by the place, size and time of a shard.
fn name(shard: &Path) -> io::Result<String> {
    let (real, about) = (fs::canonicalize(shard)?, fs::metadata(shard)?);
    let since = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut hash = Sha256::new();
    hash.update(about.len().to_le_bytes());
    hash.update(since.as_nanos().to_le_bytes());
    hash.update(real.as_os_str().as_encoded_bytes());
    let stem = real.file_stem().unwrap_or_default().to_string_lossy();
    let stem = stem.strip_suffix(".tar").unwrap_or(&stem);
    Ok(format!("{stem}-{}.tar", &hex(&hash.finalize())[..16]))
}
