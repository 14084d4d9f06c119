//! What is done to names: looking, deleting, renaming, and folders.

use super::FileError;
use super::list::list;
use super::manifest::{Conditions, Entry, Marker};
use super::path::{FilePath, FolderPath, TreePath};
use super::record::{self, ATTEMPTS_MAX, State};
use super::store::{self, Asker, Set, Store};
use crate::api::{Item, Key};

/// Entries that a folder may have, in all its depth, to be renamed: each is a rename of its own.
const RENAMED_MAX: usize = 1000;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stat {
    /// A file.
    File(Box<Entry>),
    /// A folder.
    Folder,
}

/// What is at `path`, which may be either's.
///
/// # Errors
/// Where there is nothing, or the store refuses.
pub async fn stat<S: Store>(asker: &mut Asker<S>, path: &TreePath) -> Result<Stat, FileError> {
    if let TreePath::File(file) = path
        && let Some(entry) = asker.entry(file).await?
    {
        return Ok(Stat::File(Box::new(entry)));
    }
    let folder = path.clone().folder();
    if folder.is_root() || asker.is_there(&folder).await? { Ok(Stat::Folder) } else { Err(FileError::NotFound) }
}

/// Deletes a file. Gives on how many nodes that is done.
///
/// # Errors
/// Where there is none, the conditions don't hold, or the store refuses.
pub async fn delete<S: Store>(asker: &mut Asker<S>, path: &FilePath, conditions: &Conditions) -> Result<u8, FileError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some(entry) = asker.entry(path).await? else {
            return Err(conditions.check(None).err().unwrap_or(FileError::NotFound));
        };
        conditions.check(Some(&entry))?;
        for segment in &entry.manifest.segments {
            record::retire(asker, segment.upload, path).await?;
        }
        if let Set::Done { copies, .. } = asker.unset(path.key(), entry.version).await? {
            return Ok(copies);
        }
    }
    Err(FileError::Busy)
}

/// Makes a folder that is there without files, too.
///
/// # Errors
/// Where it is there already, its name is a file's, or the store refuses.
pub async fn create_folder<S: Store>(
    asker: &mut Asker<S>,
    folder: &FolderPath,
    modified_ms: u64,
) -> Result<u8, FileError> {
    let exists = || FileError::Conflict("there is such a folder already".to_owned());
    let file = folder.as_file().ok_or_else(exists)?;
    check_above(asker, &file).await?;
    if asker.entry(&file).await?.is_some() {
        return Err(FileError::Conflict("a file has this name".to_owned()));
    }
    if asker.is_there(folder).await? {
        return Err(exists());
    }
    let (bytes, kind) = Marker { modified_ms }.to_value();
    match asker.set(folder.key(), bytes, kind, None).await? {
        Set::Done { copies, .. } => Ok(copies),
        Set::Lost => Err(exists()),
    }
}

/// Removes an empty folder.
///
/// # Errors
/// Where there is none, it has something in it, it is the root, or the store refuses.
pub async fn remove_folder<S: Store>(asker: &mut Asker<S>, folder: &FolderPath) -> Result<u8, FileError> {
    if folder.is_root() {
        return Err(FileError::Conflict("the root stays".to_owned()));
    }
    let key = folder.key();
    let page = asker.page(key.as_bytes(), None, 2, false).await?;
    let Some(marker) = page.items.first() else {
        return Err(if page.degraded { store::unknown() } else { FileError::NotFound });
    };
    if marker.key != key || page.items.len() > 1 {
        return Err(FileError::NotEmpty);
    }
    match asker.unset(key, marker.version).await? {
        Set::Done { copies, .. } => Ok(copies),
        Set::Lost => Err(FileError::Busy),
    }
}

/// Gives a file or a folder another name. A file that has that name is replaced; a folder is moved entry by entry, which is
/// no single step: where it fails in the middle, some are moved and some aren't.
///
/// # Errors
/// Where there is no such thing, the new name can't be given, or the store refuses.
pub async fn rename<S: Store>(asker: &mut Asker<S>, from: &FilePath, to: &FilePath) -> Result<(), FileError> {
    if let Some(entry) = asker.entry(from).await? {
        if from == to {
            return Ok(());
        }
        check_room(asker, to).await?;
        return rename_file(asker, from, to, entry).await;
    }
    let (from_folder, to_folder) = (from.as_folder(), to.as_folder());
    if !asker.is_there(&from_folder).await? {
        return Err(FileError::NotFound);
    }
    if to_folder.as_str().starts_with(from_folder.as_str()) {
        return if from == to {
            Ok(())
        } else {
            Err(FileError::Conflict("a folder can't move into itself".to_owned()))
        };
    }
    if asker.entry(to).await?.is_some() {
        return Err(FileError::Conflict("a file has the new name".to_owned()));
    }
    check_above(asker, to).await?;
    if asker.is_there(&to_folder).await? && !list(asker, &to_folder, None, 1).await?.entries.is_empty() {
        return Err(FileError::Conflict("the folder of the new name isn't empty".to_owned()));
    }
    rename_folder(asker, &from_folder, &to_folder).await
}

async fn rename_folder<S: Store>(asker: &mut Asker<S>, from: &FolderPath, to: &FolderPath) -> Result<(), FileError> {
    let page = asker.page(from.key().as_bytes(), None, RENAMED_MAX as u32 + 1, false).await?;
    if page.next_after.is_some() || page.items.len() > RENAMED_MAX {
        return Err(FileError::TooLarge(format!("a folder of more than {RENAMED_MAX} entries can't be renamed")));
    }
    // Every new name is looked at before the first is given: one that is too long must not leave half a folder behind.
    let moves: Vec<(Item, TreePath, TreePath)> = page
        .items
        .into_iter()
        .filter_map(|item| {
            let old = path_of(&item.key, asker.key_bytes_max())?;
            let new = match &old {
                TreePath::File(file) => moved_text(file.as_str(), from, to)?,
                TreePath::Folder(folder) => moved_text(folder.as_str(), from, to)?,
            };
            Some(TreePath::new(new.as_bytes(), asker.key_bytes_max()).map(|new| (item, old, new)))
        })
        .collect::<Result<_, _>>()?;
    for (item, old, new) in moves {
        match (old, new) {
            (TreePath::File(old), TreePath::File(new)) => {
                if let Some(entry) = asker.entry(&old).await? {
                    rename_file(asker, &old, &new, entry).await?;
                }
            }
            (TreePath::Folder(old), TreePath::Folder(new)) => move_marker(asker, &old, &new, &item).await?,
            _ => return Err(FileError::Unexpected),
        }
    }
    Ok(())
}

async fn move_marker<S: Store>(
    asker: &mut Asker<S>,
    old: &FolderPath,
    new: &FolderPath,
    item: &Item,
) -> Result<(), FileError> {
    let Some(value) = asker.value(item.key.clone()).await? else { return Ok(()) };
    if let Some(kind) = value.content_type.clone() {
        // One that is there already is as good.
        asker.set(new.key(), value.bytes.clone(), kind, None).await?;
    }
    asker.unset(old.key(), value.version).await.map(|_| ())
}

/// Moves a manifest. In this order a crash leaves the file under its old name, or under both, and never its chunks without
/// a record that knows where to look:
///
/// 1. each upload's record names both paths, or is being deleted, which ends this;
/// 2. the old manifest still is what it was;
/// 3. the uploads of a file that stands under the new name are retired, and its manifest is replaced;
/// 4. every record still names the new path, and none is being deleted: else this process stood still for so long that a
///    collector came by, and takes the new name back;
/// 5. the old manifest goes, unless somebody has written a new one meanwhile: then that file came after the rename. Where
///    another rename was faster, the file has the new names of both;
/// 6. the records forget the old path ([`record::end_move`]), those that nobody else has touched.
async fn rename_file<S: Store>(
    asker: &mut Asker<S>,
    from: &FilePath,
    to: &FilePath,
    entry: Entry,
) -> Result<(), FileError> {
    let mut moves = Vec::new();
    for segment in &entry.manifest.segments {
        moves.push(record::begin_move(asker, segment.upload, from, to).await?);
    }
    let current = asker.entry(from).await?;
    if current.is_none_or(|current| current.version != entry.version) {
        return Err(FileError::Busy);
    }
    let standing = asker.entry(to).await?;
    let old = standing.iter().flat_map(|entry| &entry.manifest.segments);
    for segment in old.filter(|segment| !entry.manifest.names(segment.upload)) {
        record::retire(asker, segment.upload, to).await?;
    }
    let (bytes, kind) = entry.manifest.to_value();
    let set = asker.set(to.key(), bytes, kind, standing.map(|standing| standing.version)).await?;
    let Set::Done { version, .. } = set else { return Err(FileError::Busy) };
    for segment in &entry.manifest.segments {
        let record = record::read(asker, segment.upload).await?;
        if record.is_none_or(|(record, _)| record.state == State::Deleting || !record.names(to)) {
            asker.unset(to.key(), version).await?;
            return Err(FileError::Busy);
        }
    }
    let is_moved = asker.unset(from.key(), entry.version).await? != Set::Lost;
    for moving in moves {
        // A tidier record saves a collector a look; nothing depends on it.
        let _ = record::end_move(asker, moving, to, is_moved).await;
    }
    Ok(())
}

/// Refuses where no file can have this path: something above it is a file, or it is a folder.
pub(super) async fn check_room<S: Store>(asker: &mut Asker<S>, path: &FilePath) -> Result<(), FileError> {
    check_above(asker, path).await?;
    if asker.is_there(&path.as_folder()).await? {
        return Err(FileError::Conflict("a folder has this name".to_owned()));
    }
    Ok(())
}

async fn check_above<S: Store>(asker: &mut Asker<S>, path: &FilePath) -> Result<(), FileError> {
    for above in path.ancestors() {
        if asker.entry(&above).await?.is_some() {
            return Err(FileError::Conflict(format!("{:?} is a file, so nothing can be in it", above.as_str())));
        }
    }
    Ok(())
}

/// The path whose manifest or marker has this key.
fn path_of(key: &Key, key_bytes_max: usize) -> Option<TreePath> {
    TreePath::new(key.as_str().strip_prefix(super::path::PREFIX)?.as_bytes(), key_bytes_max).ok()
}

fn moved_text(path: &str, from: &FolderPath, to: &FolderPath) -> Option<String> {
    Some(format!("{}{}", to.as_str(), path.strip_prefix(from.as_str())?))
}
