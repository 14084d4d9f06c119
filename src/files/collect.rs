//! Finds chunks that no file is made of, and deletes them.
//!
//! One node at a time does this, the one that leads; should two do it for a moment, the compare-and-set of each claim lets one
//! of them win. See the page of [`super`] for why nothing that lives is ever deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::path::FilePath;
use super::record::{self, Record, State, UploadId};
use super::store::{Asker, Set, Store, delete_chunk};
use super::upload::RENEW_AFTER;
use super::{FileError, IN_FLIGHT_MAX};
use crate::api::Key;
use crate::base::{Instant, Version};

use futures_util::StreamExt as _;

/// How long an upload may show no sign of life. Several times what it takes to show one, and longer than any request.
const UPLOAD_GRACE: Duration = Duration::from_secs(600);
/// How long what was replaced stays, for those who read it. Longer than any rename takes, which a claim must not meet.
const RETIRED_GRACE: Duration = Duration::from_secs(60);

/// Records on one page.
const PAGE_KEYS: u32 = 1000;
/// Uploads that are dealt with in one round; the others wait for the next.
const UPLOADS_MAX: usize = 1000;
/// Uploads that are watched at once; of more than this the later ones are found when the earlier ones are done.
const WATCHED_MAX: usize = 100_000;

const _: () = assert!(RENEW_AFTER.as_secs() * 4 < UPLOAD_GRACE.as_secs());

/// Watches records that aren't settled.
#[derive(Debug, Default)]
pub struct Collector {
    /// Of each, the version and since when it has that one, by this collector's own clock.
    watched: BTreeMap<UploadId, (Version, Instant)>,
}

impl Collector {
    /// Looks at all records once, and removes uploads that have been left alone for long enough. Gives how many it removed.
    ///
    /// # Errors
    /// Where the store refuses; what was begun is gone on with in a later round.
    pub async fn round<S: Store>(&mut self, asker: &mut Asker<S>, now: Instant) -> Result<usize, FileError> {
        let due = self.look(asker, now).await?;
        let mut removed = 0;
        for (upload, version, record) in due {
            self.watched.remove(&upload);
            removed += usize::from(remove(asker, upload, version, &record).await?);
        }
        Ok(removed)
    }

    /// The records whose time has come.
    async fn look<S: Store>(
        &mut self,
        asker: &mut Asker<S>,
        now: Instant,
    ) -> Result<Vec<(UploadId, Version, Record)>, FileError> {
        let (mut seen, mut due, mut after) = (BTreeMap::new(), Vec::new(), None::<Key>);
        loop {
            let page = asker.page(UploadId::records().as_bytes(), after, PAGE_KEYS, true).await?;
            for item in page.items {
                let record = item.value.as_deref().and_then(Record::read);
                let (Some(upload), Some(record)) = (UploadId::of_record(&item.key), record) else { continue };
                let grace = match record.state {
                    State::Settled => continue,
                    State::Uploading => UPLOAD_GRACE,
                    State::Retired | State::Deleting => RETIRED_GRACE,
                };
                let known = self.watched.get(&upload).filter(|(version, _)| *version == item.version);
                let since = known.map_or(now, |(_, since)| *since);
                if now.since(since) >= grace && due.len() < UPLOADS_MAX {
                    due.push((upload, item.version, record));
                }
                if seen.len() < WATCHED_MAX {
                    seen.insert(upload, (item.version, since));
                }
            }
            match page.next_after {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        self.watched = seen;
        Ok(due)
    }
}

/// Claims an upload, and deletes it unless a manifest names it. Tells whether it did.
async fn remove<S: Store>(
    asker: &mut Asker<S>,
    upload: UploadId,
    version: Version,
    record: &Record,
) -> Result<bool, FileError> {
    let claim = record.become_state(State::Deleting);
    let (bytes, kind) = claim.to_value();
    if asker.set(upload.key(), bytes, kind, Some(version)).await? == Set::Lost {
        return Ok(false);
    }
    // Only what is read after the claim counts: from here on no rename gives this upload another path.
    let Some((claimed, version)) = record::read(asker, upload).await?.filter(|(record, _)| *record == claim) else {
        return Ok(false);
    };
    let mut naming = Vec::new();
    for path in record::paths(&claimed, asker.key_bytes_max()) {
        match asker.entry(&path).await {
            Ok(Some(entry)) if entry.manifest.names(upload) => naming.push(path),
            Ok(_) | Err(FileError::Foreign(_)) => {}
            Err(error) => return Err(error),
        }
    }
    if naming.is_empty() {
        delete_all_chunks(asker, upload).await?;
        return Ok(asker.unset(upload.key(), version).await? != Set::Lost);
    }
    let paths = naming.iter().map(FilePath::as_str).map(str::to_owned).collect();
    let (bytes, kind) = Record { paths, ..claimed.become_state(State::Settled) }.to_value();
    asker.set(upload.key(), bytes, kind, Some(version)).await.map(|_| false)
}

/// Deletes the chunks that are there, however many.
async fn delete_all_chunks<S: Store>(asker: &mut Asker<S>, upload: UploadId) -> Result<(), FileError> {
    let prefix = upload.chunks();
    let mut after = None;
    loop {
        let page = asker.page(prefix.as_bytes(), after, PAGE_KEYS, false).await?;
        let store = asker.store();
        let deletes = page.items.into_iter().map(|item| delete_chunk(store.clone(), item.key));
        let mut deletes = futures_util::stream::iter(deletes).buffer_unordered(IN_FLIGHT_MAX);
        while let Some(deleted) = deletes.next().await {
            deleted?;
        }
        match page.next_after {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}
