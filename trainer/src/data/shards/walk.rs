//! The members of a tar: headers are read, what lies between them is passed over.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

use tar::{Archive, Entry, EntryType, PaxExtensions};

use crate::{
    data::image::{Member, Shard},
    error::{Error, Result},
};

/// Members of one shard, directories and extended headers counted.
const MEMBERS_MAX: usize = 1 << 22;
/// Bytes of a member's name.
const NAME_BYTES_MAX: u64 = 4096;
/// Bytes of an extended header, which may hold a name.
const PAX_BYTES_MAX: u64 = 1 << 16;
const BLOCK: u64 = 512;
/// Bytes behind the last member that are looked at.
const END_BYTES: u64 = 1 << 20;

/// A member, and whether it is a file: neither folder, link nor hole.
pub(super) struct Found {
    pub(super) member: Member,
    pub(super) is_file: bool,
}

/// Tells `each` of all members in their order. Refuses a file that is no tar, one that is cut short
/// (its end mark counts), and whatever is over a limit.
pub(super) fn walk(shard: &Arc<Shard>, mut each: impl FnMut(Found)) -> Result<()> {
    let unreadable = |source| Error::Read { path: shard.path.clone(), source };
    let file = File::open(&shard.tar).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut archive = Archive::new(&file);
    let (mut end, mut name) = (0, None); // of the last member
    let mut long_name = None;
    for (count, entry) in archive.entries_with_seek().map_err(unreadable)?.raw(true).enumerate() {
        let after = |problem: String| shard.refuse(problem + &behind(name.as_deref()));
        if count == MEMBERS_MAX {
            return Err(shard.refuse(format!("it has more than {MEMBERS_MAX} members")));
        }
        let mut entry = entry.map_err(|error| after(format!("it is no tar: {error}")))?;
        let (kind, offset) = (entry.header().entry_type(), entry.raw_file_position());
        end = offset.saturating_add(entry.size());
        if end > length {
            let own = name_of(&entry, long_name).unwrap_or_default();
            return Err(shard.refuse(format!("it is cut short in the middle of `{own}`")));
        }
        match kind {
            EntryType::GNULongName => long_name = Some(gnu_name(&mut entry).map_err(after)?),
            EntryType::XHeader => long_name = pax_name(&mut entry).map_err(after)?,
            EntryType::XGlobalHeader | EntryType::GNULongLink => {}
            kind => {
                let own = name_of(&entry, long_name.take()).map_err(after)?;
                let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous);
                let (shard, length) = (shard.clone(), entry.size());
                let member = Member { shard, name: own.as_str().into(), offset, length };
                each(Found { member, is_file });
                name = Some(own);
            }
        }
    }
    let end = end.div_ceil(BLOCK) * BLOCK;
    check_end(&file, end)
        .map_err(unreadable)?
        .map_err(|problem| shard.refuse(problem.to_owned() + &behind(name.as_deref())))
}

fn behind(name: Option<&str>) -> String {
    name.map(|name| format!(" (behind `{name}`)")).unwrap_or_default()
}

/// A tar ends with blocks of zeros.
fn check_end(mut file: &File, end: u64) -> io::Result<Result<(), &'static str>> {
    file.seek(SeekFrom::Start(end))?;
    let mut rest = Vec::new();
    file.take(END_BYTES).read_to_end(&mut rest)?;
    Ok(match rest.iter().all(|&byte| byte == 0) {
        true if rest.len() as u64 >= BLOCK => Ok(()),
        true => Err("it is cut short: a tar's end mark is missing"),
        false => Err("something follows a tar's end mark: tars cannot be joined end to end"),
    })
}

fn name_of(entry: &Entry<impl Read>, long_name: Option<Vec<u8>>) -> Result<String, String> {
    let name = long_name.unwrap_or_else(|| entry.path_bytes().into_owned());
    String::from_utf8(name).map_err(|_| "a member's name is not UTF-8".into())
}

fn gnu_name(entry: &mut Entry<impl Read>) -> Result<Vec<u8>, String> {
    let mut name = content(entry, NAME_BYTES_MAX)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn pax_name(entry: &mut Entry<impl Read>) -> Result<Option<Vec<u8>>, String> {
    let bytes = content(entry, PAX_BYTES_MAX)?;
    let mut name = None;
    for extension in PaxExtensions::new(&bytes) {
        let extension =
            extension.map_err(|error| format!("an extended header is broken: {error}"))?;
        match extension.key_bytes() {
            b"path" => name = Some(extension.value_bytes().to_vec()),
            // Where the header's own field is too small, above 8 GiB.
            b"size" => return Err("a member is larger than a tar's header can say".into()),
            _ => {}
        }
    }
    match &name {
        Some(name) if name.len() as u64 > NAME_BYTES_MAX => Err(too_long()),
        _ => Ok(name),
    }
}

fn content(entry: &mut Entry<impl Read>, bytes_max: u64) -> Result<Vec<u8>, String> {
    if entry.size() > bytes_max {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|error| format!("it cannot be read: {error}"))?;
    Ok(bytes)
}

fn too_long() -> String {
    format!("a member's name has more than {NAME_BYTES_MAX} bytes")
}
