//! What one viewer of the feed is told, whatever it is told through: what it missed, or a gap and a snapshot, then every
//! change.
//!
//! ```text
//! no cursor ──────────────────────────────────────────────────────────────────────────▶ live ─▶ changes
//! a cursor ─▶ what came after it, a part at a time ─┬─ all of it is kept ─────────────▶ live ─▶ changes
//!                                                   └─ some is gone ─▶ gap ─▶ snapshot ─▶ live ─▶ changes
//! ```
//!
//! The subscription stands before anything else is asked for, so what is committed meanwhile waits in it. The next part, or
//! page, is asked for when the one before has been taken: a viewer that reads slowly holds one of them in memory.
//!
//! What comes before `live` carries the cursor that the viewer came with: one that loses its connection there begins again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::problem::Problem;
use super::routes::Shared;
use super::target::Query;
use crate::api::json::EventJson;
use crate::api::{self, Error, FeedCursor, FeedEvent, Key, Operation, RESERVED};
use crate::base::{Blob, PartitionId, Version, limits};
use crate::port::{FeedEnd, FeedItem, FeedSubscription};
use crate::telemetry::traffic::CutOff;

/// Keys on one page of a snapshot.
const SNAPSHOT_LIMIT: u32 = 1000;
/// How long one page, or one part, may take.
const PART_TIMEOUT: Duration = Duration::from_secs(15);

/// What one viewer asked for.
pub(super) struct Wish {
    pub(super) prefix: Vec<u8>,
    pub(super) values: bool,
    since: Option<Since>,
}

#[derive(Clone)]
struct Since {
    text: String,
    cursor: FeedCursor,
}

impl Wish {
    /// Reads the parameters; `last` is a cursor that came another way and counts more than `since=`.
    pub(super) fn read(query: Query<'_>, last: Option<&str>) -> Result<Self, Problem> {
        let prefix = query.bytes("prefix")?.unwrap_or_default().into_owned();
        if prefix.len() > limits::KEY_BYTES_MAX {
            return Err(Problem::bad_request("the prefix is longer than any key can be".to_owned()));
        }
        let given = query.text("since")?;
        let text = last.or(given.as_deref()).filter(|text| !text.is_empty());
        let since = text.map(|text| {
            let cursor = FeedCursor::from_text(text).map_err(|error| Problem::bad_request(error.to_string()))?;
            Ok::<_, Problem>(Since { text: text.to_owned(), cursor })
        });
        Ok(Self { prefix, values: query.switch("values")?, since: since.transpose()? })
    }
}

/// Why a viewer is told nothing more.
#[derive(Debug)]
pub(super) enum End {
    /// Its subscription ended.
    Feed(FeedEnd),
    /// What it missed could not be had now.
    Later(String),
    /// Its token isn't valid any more.
    Revoked,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Feed(end) => end.fmt(f),
            Self::Revoked => f.write_str("the token that opened this feed is not valid any more"),
            Self::Later(why) => write!(f, "try again: {why}"),
        }
    }
}

enum Stage {
    Missed { remaining: Vec<u64> },
    Snapshot { after: Option<Key> },
    Live,
}

/// One viewer.
pub(super) struct Viewing {
    shared: Arc<Shared>,
    subscription: FeedSubscription,
    wish: Wish,
    stage: Stage,
    ready: VecDeque<EventJson>,
    /// Of each partition, the last change that it was told before it went live.
    told: HashMap<PartitionId, Version>,
}

impl Drop for Viewing {
    fn drop(&mut self) {
        self.shared.options.traffic.viewers.remove();
    }
}

impl Viewing {
    pub(super) fn new(shared: &Arc<Shared>, subscription: FeedSubscription, wish: Wish) -> Self {
        shared.options.traffic.viewers.add();
        shared.options.traffic.viewers_begun.add();
        let mut viewing = Self {
            shared: Arc::clone(shared),
            subscription,
            stage: Stage::Missed { remaining: Vec::new() },
            ready: VecDeque::new(),
            told: HashMap::new(),
            wish,
        };
        if viewing.wish.since.is_none() {
            viewing.go_live();
        }
        viewing
    }

    /// The next message for the viewer. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<EventJson, End> {
        let next = self.find_next().await;
        if let Err(end) = &next {
            self.shared.options.traffic.on_cut_off(match end {
                End::Feed(FeedEnd::TooSlow { .. }) => CutOff::TooSlow,
                End::Feed(FeedEnd::Interrupted) => CutOff::Interrupted,
                End::Feed(FeedEnd::Closed) => CutOff::ShuttingDown,
                End::Later(_) => CutOff::CatchUp,
                End::Revoked => CutOff::Revoked,
            });
        }
        next
    }

    async fn find_next(&mut self) -> Result<EventJson, End> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            match &self.stage {
                Stage::Live => {
                    let item = self.subscription.next().await.map_err(End::Feed)?;
                    if let Some(event) = self.on_item(&item) {
                        return Ok(event);
                    }
                }
                Stage::Missed { remaining } => {
                    let remaining = remaining.clone();
                    self.ask_for_missed(remaining).await?;
                }
                Stage::Snapshot { after } => {
                    let after = after.clone();
                    self.ask_for_page(after).await?;
                }
            }
        }
    }

    fn on_item(&mut self, item: &FeedItem) -> Option<EventJson> {
        let event = &item.event;
        let is_told = self.told.get(&event.partition).is_some_and(|told| event.version <= *told);
        (!is_told && self.wants(event))
            .then(|| EventJson::of(event, self.wish.values).with_cursor(item.cursor.as_ref().to_owned()))
    }

    fn wants(&self, event: &FeedEvent) -> bool {
        self.wants_key(&event.key)
    }

    /// What the gateway makes for itself is for those who ask for it.
    fn wants_key(&self, key: &Key) -> bool {
        let prefix = self.wish.prefix.as_slice();
        key.as_bytes().starts_with(prefix) && (!key.is_reserved() || prefix.starts_with(RESERVED.as_bytes()))
    }

    async fn ask_for_missed(&mut self, remaining: Vec<u64>) -> Result<(), End> {
        let Some(since) = self.wish.since.clone() else {
            self.go_live();
            return Ok(());
        };
        let asked = tokio::time::timeout(PART_TIMEOUT, self.shared.core.feed_since(&since.cursor, remaining));
        let part = asked.await.map_err(|_| later())?.map_err(|error| End::Later(error.to_string()))?;
        if part.gap {
            let detail = "changes since the cursor are not kept any more; a snapshot follows".to_owned();
            self.ready.push_back(EventJson::notice("gap", Some(detail)));
            self.stage = Stage::Snapshot { after: None };
            // What was told already is older than the snapshot; what comes after it must not be held against it.
            self.told.clear();
            return Ok(());
        }
        for event in part.events {
            let told = self.told.entry(event.partition).or_default();
            *told = event.version.max(*told);
            if self.wants(&event) {
                self.ready.push_back(EventJson::of(&event, self.wish.values).with_cursor(since.text.clone()));
            }
        }
        if part.remaining.is_empty() {
            self.go_live();
        } else {
            self.stage = Stage::Missed { remaining: part.remaining };
        }
        Ok(())
    }

    async fn ask_for_page(&mut self, after: Option<Key>) -> Result<(), End> {
        let prefix = Blob::from(self.wish.prefix.as_slice());
        let values = self.wish.values;
        let operation = Operation::List { prefix, after, limit: SNAPSHOT_LIMIT, values };
        let page = match self.shared.submit(operation, PART_TIMEOUT).await {
            Ok(api::Response::Page(page)) => page,
            Ok(_) => return Err(later()),
            Err(error) => return Err(End::Later(error.to_string())),
        };
        let wanted: Vec<_> =
            page.items.iter().filter(|item| self.wants_key(&item.key)).map(EventJson::snapshot).collect();
        self.ready.extend(wanted);
        match page.next_after {
            Some(after) => self.stage = Stage::Snapshot { after: Some(after) },
            None => self.go_live(),
        }
        Ok(())
    }

    fn go_live(&mut self) {
        let cursor = self.subscription.cursor().as_ref().to_owned();
        self.ready.push_back(EventJson::notice("live", None).with_cursor(cursor));
        self.stage = Stage::Live;
    }
}

fn later() -> End {
    End::Later(Error::DeadlineBefore("what was missed could not be gathered in time".to_owned()).to_string())
}
