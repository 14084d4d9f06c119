//! `jumpgate list`: keys, page by page.

use std::io::{self, IsTerminal as _};

use clap::Args;
use indicatif::BinaryBytes;

use super::output::{Output, printable, value_for_people};
use super::{Failure, Target};
use crate::api::json::{ItemJson, from_base64};

/// Keys asked for at once.
const PAGE_ITEMS: u32 = 1000;
/// The same with values, so that a page of ordinary values stays a small message.
const PAGE_ITEMS_WITH_VALUES: u32 = 200;

/// The arguments of `list`.
#[derive(Debug, Args)]
#[command(after_help = "\
In a pipe each line is one key as it is; on a terminal its size and content type stand before it. Keys come in the order of
their bytes, all of them unless --limit is given. Keys with line breaks in them need --json.

Examples:
  jumpgate list
  jumpgate list users/ | wc -l
  jumpgate list users/ --values --limit 10
  jumpgate list --json                           one JSON object a line")]
pub struct List {
    /// Only keys that begin with this
    #[arg(default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// Print the values too: a tab, then the text, or the size where it is no text
    #[arg(long)]
    pub values: bool,
    /// At most so many keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// One JSON object a line: key, version, size, content type, and the value in base64 with --values
    #[arg(long)]
    pub json: bool,
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

impl List {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut left = self.limit.unwrap_or(u64::MAX);
        let page_items = if self.values { PAGE_ITEMS_WITH_VALUES } else { PAGE_ITEMS };
        let page_items = u32::try_from(left).unwrap_or(u32::MAX).min(page_items);
        let mut pages = self.target.client()?.pages(&self.prefix, page_items, self.values);
        let mut output = Output::new();
        let for_people = io::stdout().is_terminal();
        while left > 0
            && let Some(items) = pages.next().await?
        {
            for item in items.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                output.line(self.line(item, for_people)?)?;
                left -= 1;
            }
            // A page at a time, so that whoever reads along sees it come.
            output.flush()?;
        }
        output.flush()
    }

    fn line(&self, item: &ItemJson, for_people: bool) -> Result<String, Failure> {
        if self.json {
            return Ok(serde_json::to_string(item).expect("a listing's item has a JSON form"));
        }
        let mut line = if for_people {
            let size = BinaryBytes(item.size).to_string();
            let content_type = item.content_type.as_deref().unwrap_or("-");
            format!("{size:>11}  {:<24}  {}", printable(content_type), printable(&item.key))
        } else {
            item.key.clone()
        };
        if self.values {
            let value = from_base64(item.value.as_deref().unwrap_or_default())
                .map_err(|reason| Failure::Failed(format!("the value of {} is {reason}", item.key)))?;
            line.push('\t');
            line.push_str(&value_for_people(&value));
        }
        Ok(line)
    }
}
