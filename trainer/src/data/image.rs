//! Where the bytes of a picture lie.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use clip::image::{Limits, RgbImage, decode, fit, open};

use crate::error::{Error, Result};

/// A file, or a range of one; not opened yet. Printed, it is the file's path or `SHARD/MEMBER`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// A file of its own.
    File(PathBuf),
    /// A member of a tar.
    Member(Member),
}

/// A tar of pairs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shard {
    /// As the user gave it: what errors name.
    pub path: PathBuf,
    /// The tar itself: the same file, or what was unpacked of it.
    pub tar: PathBuf,
}

/// A file in a [`Shard`]: a range of the tar's bytes. Its name is text for people and never a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    pub(super) shard: Arc<Shard>,
    pub(super) name: Box<str>,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl ImageSource {
    /// Decodes the picture and makes it square, `side` pixels wide; every error names it.
    pub fn fitted(&self, side: u32) -> Result<RgbImage> {
        let limits = Limits::default();
        let image = match self {
            Self::File(path) => open(path, &limits)?,
            Self::Member(member) => {
                let bytes = member.read(limits.bytes_max)?;
                decode(&bytes, &limits).map_err(|error| member.refuse(error.to_string()))?
            }
        };
        Ok(fit(&image, side))
    }

    /// The bytes of the picture as they lie there, and what its name ends with.
    pub fn encoded(&self) -> Result<(Vec<u8>, &str)> {
        let ending = |name: &str| name.rfind('.').map_or(0, |dot| dot + 1);
        match self {
            Self::File(path) => {
                let read = fs::read(path);
                let bytes = read.map_err(|source| Error::Read { path: path.clone(), source })?;
                Ok((bytes, path.extension().and_then(OsStr::to_str).unwrap_or_default()))
            }
            Self::Member(member) => {
                let bytes = member.read(member.length as usize)?;
                Ok((bytes, &member.name[ending(&member.name)..]))
            }
        }
    }

    /// The picture's own file, if it has one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Member(_) => None,
        }
    }

    /// The file that holds the picture, as the user gave it.
    pub fn container(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Member(member) => &member.shard.path,
        }
    }

    /// The same for every way to name it, as far as its file is there.
    pub(crate) fn canonical(&self) -> Self {
        let real = |path: &PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        match self {
            Self::File(path) => Self::File(real(path)),
            Self::Member(member) => {
                let Shard { path, tar } = &*member.shard;
                let shard = Arc::new(Shard { path: real(path), tar: real(tar) });
                Self::Member(Member { shard, ..member.clone() })
            }
        }
    }
}

impl<T: Into<PathBuf>> From<T> for ImageSource {
    fn from(path: T) -> Self {
        Self::File(path.into())
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Member(Member { shard, name, .. }) => {
                write!(f, "{}/{name}", shard.path.display())
            }
        }
    }
}

impl Shard {
    pub(super) fn refuse(&self, problem: impl Into<String>) -> Error {
        Error::Shard { shard: self.path.clone(), member: None, problem: problem.into() }
    }
}

impl Member {
    /// Its bytes, of which there may be more than `bytes_max` by one: what is over a limit shows.
    pub(super) fn read(&self, bytes_max: usize) -> Result<Vec<u8>> {
        let refuse = |source| Error::Read { path: self.shard.path.clone(), source };
        let length = self.length.min(bytes_max as u64 + 1);
        let mut file = File::open(&self.shard.tar).map_err(refuse)?;
        file.seek(SeekFrom::Start(self.offset)).map_err(refuse)?;
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes).map_err(refuse)?;
        if (bytes.len() as u64) < length {
            return Err(self.refuse("the shard was cut short since it was opened"));
        }
        Ok(bytes)
    }

    pub(super) fn refuse(&self, problem: impl Into<String>) -> Error {
        let (shard, member) = (self.shard.path.clone(), Some(self.name.to_string()));
        Error::Shard { shard, member, problem: problem.into() }
    }
}
