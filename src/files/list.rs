//! The entries of a folder, a page at a time.
//!
//! A folder is whatever files have it in their paths, and those that were made. Keys are listed in order; where one lies deeper,
//! the folder on the way to it is the entry, and the listing goes on behind all that is in it.

use super::FileError;
use super::manifest::Manifest;
use super::path::FolderPath;
use super::store::{self, Asker, Store};
use crate::api::{Item, Key, RESERVED};

/// Keys that one request asks for: with their values, which are some hundred bytes each.
const PAGE_KEYS_MAX: usize = 1000;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name within the folder, that of a folder without a slash.
    pub name: String,
    /// What the file is; none of a folder.
    pub file: Option<Manifest>,
}

/// A page of entries, in the order of their names' bytes, those of folders with a slash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries.
    pub entries: Vec<Found>,
    /// What to go on behind; none after the last page.
    pub next: Option<String>,
    /// It was read without a quorum.
    pub degraded: bool,
}

/// Up to `limit` entries of `folder` behind the one that `after` says, as [`Listing::next`] gave it.
///
/// # Errors
/// Where there is no such folder, or the store refuses.
pub async fn list<S: Store>(
    asker: &mut Asker<S>,
    folder: &FolderPath,
    after: Option<&str>,
    limit: usize,
) -> Result<Listing, FileError> {
    let prefix = folder.key();
    let mut listing = Listing::default();
    let mut exists = folder.is_root() || after.is_some();
    let mut behind = after.map(|name| behind(&prefix, name)).transpose()?;
    loop {
        let keys = (limit - listing.entries.len() + 1).min(PAGE_KEYS_MAX);
        let page = asker.page(prefix.as_bytes(), behind, keys as u32, true).await?;
        exists |= !page.items.is_empty();
        listing.degraded |= page.degraded;
        for item in &page.items {
            if listing.entries.len() == limit {
                listing.next = listing.entries.last().map(cursor);
                return Ok(listing);
            }
            if let Some(found) = found(&prefix, item).filter(|found| is_new(&listing, found)) {
                listing.entries.push(found);
            }
        }
        let Some(next) = page.next_after else { break };
        // Where the page ended inside of a folder, whatever else is in there is passed over.
        behind = Some(match (inside(&prefix, &next), listing.entries.last()) {
            (Some(name), Some(last)) if last.name == name => self::behind(&prefix, &cursor(last))?,
            _ => next,
        });
    }
    match exists {
        true => Ok(listing),
        false if listing.degraded => Err(store::unknown()),
        false => Err(FileError::NotFound),
    }
}

/// The entry that a key of the folder is, or lies in.
fn found(prefix: &Key, item: &Item) -> Option<Found> {
    let name = item.key.as_str().strip_prefix(prefix.as_str())?;
    match name.split_once('/') {
        Some((folder, _)) => Some(Found { name: folder.to_owned(), file: None }),
        None => {
            let manifest = Manifest::read(item.value.as_deref()?, item.content_type.as_ref())?;
            Some(Found { name: name.to_owned(), file: Some(manifest) })
        }
    }
    // The folder's own marker, and names that only other means than this tree can give.
    .filter(|found| !found.name.is_empty() && !found.name.contains(RESERVED))
}

/// Keys of one folder come one behind the other.
fn is_new(listing: &Listing, found: &Found) -> bool {
    found.file.is_some() || listing.entries.last().is_none_or(|last| last.file.is_some() || last.name != found.name)
}

/// The folder of this folder that a key lies in.
fn inside<'a>(prefix: &Key, key: &'a Key) -> Option<&'a str> {
    let (folder, _) = key.as_str().strip_prefix(prefix.as_str())?.split_once('/')?;
    Some(folder)
}

fn cursor(found: &Found) -> String {
    let slash = if found.file.is_some() { "" } else { "/" };
    format!("{}{slash}", found.name)
}

/// The key behind an entry and all that is in it.
fn behind(prefix: &Key, cursor: &str) -> Result<Key, FileError> {
    let end = if cursor.ends_with('/') { RESERVED } else { "" };
    Ok(format!("{prefix}{cursor}{end}").parse::<Key>()?)
}
