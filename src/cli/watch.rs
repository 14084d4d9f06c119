//! `jumpgate watch`: the live feed, one event a line, for as long as anybody looks.

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::output::{Output, note, one_line, printable, value_for_people};
use super::{Failure, Target};
use crate::api::json::{EventJson, from_base64};
use crate::client::{Client, ClientError, Feed};

/// How long to wait before a feed that ended is opened again: a gateway that closes each at once isn't stormed.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// The arguments of `watch`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each line is one change: what happened (put, delete, expire), the key and its version, separated by tabs. It goes on until
Ctrl-C. A lost connection is opened again at this or another gateway and goes on where it was, so that a change may be shown
twice and none is missed; where that can't be had any more, stderr says `gap`, and each key follows as it is then
(snapshot).

Examples:
  jumpgate watch
  jumpgate watch users/ --values
  jumpgate watch --json | jq .key
  jumpgate watch --since CURSOR                  what has happened since, and goes on
  jumpgate watch orders/ --limit 1               wait for the next order")]
pub struct Watch {
    /// Only keys that begin with this
    #[arg(default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// Print events as they come, one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Print the new values too
    #[arg(long)]
    pub values: bool,
    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Go on after this cursor, which an event told (--json shows it)
    #[arg(long, value_name = "CURSOR")]
    pub since: Option<String>,
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

impl Watch {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let cannot = |error| Failure::Failed(format!("cannot wait for signals: {error}"));
        let mut interrupted = signal(SignalKind::interrupt()).map_err(cannot)?;
        let mut terminated = signal(SignalKind::terminate()).map_err(cannot)?;
        tokio::select! {
            result = self.follow() => result,
            _ = interrupted.recv() => Ok(()),
            _ = terminated.recv() => Ok(()),
        }
    }

    async fn follow(&self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let mut cursor = self.since.clone();
        let mut feed = client.watch(&self.prefix, self.values, cursor.as_deref()).await?;
        let mut left = self.limit.unwrap_or(u64::MAX);
        while left > 0 {
            match feed.next().await {
                Ok(event) => {
                    cursor = event.cursor.clone().or(cursor);
                    if self.show(&event, feed.url())? {
                        left -= 1;
                    }
                }
                Err(error @ ClientError::FeedEnded { .. }) => {
                    note(&one_line(&format!("{error}; opening it again where it was")));
                    feed = self.reopen(&client, cursor.as_deref()).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Opens the feed again, trying as long as that is not refused for good.
    async fn reopen(&self, client: &Client, cursor: Option<&str>) -> Result<Feed, Failure> {
        loop {
            tokio::time::sleep(REOPEN_PAUSE).await;
            match client.watch(&self.prefix, self.values, cursor).await {
                Ok(feed) => return Ok(feed),
                Err(error) if may_pass(&error) => note(&one_line(&format!("{error}; trying again"))),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Prints an event; true where it is a change and no word of the feed itself.
    fn show(&self, event: &EventJson, url: &str) -> Result<bool, Failure> {
        let mut output = Output::new();
        let change = event.key.is_some();
        if self.json {
            output.line(serde_json::to_string(event).expect("an event has a JSON form"))?;
        } else if change {
            output.line(line_of(event)?)?;
        } else {
            let detail = event.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
            note(&one_line(&format!("{} ({url}){detail}", event.kind)));
        }
        output.flush()?;
        Ok(change)
    }
}

/// A change as people read it.
fn line_of(event: &EventJson) -> Result<String, Failure> {
    let key = event.key.as_deref().unwrap_or_default();
    let version = event.version.map(|version| version.to_string()).unwrap_or_default();
    let mut line = format!("{}\t{}\t{version}", printable(&event.kind), printable(key));
    if let Some(value) = &event.value {
        let value = from_base64(value).map_err(|reason| Failure::Failed(format!("the value of {key} is {reason}")))?;
        line.push('\t');
        line.push_str(&value_for_people(&value));
    }
    Ok(line)
}

/// Whether waiting may help.
fn may_pass(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::NoAnswer { .. } | ClientError::FeedEnded { .. } => true,
        ClientError::Refused { problem, .. } => matches!(problem.status, 429 | 502..=504),
        _ => false,
    }
}
