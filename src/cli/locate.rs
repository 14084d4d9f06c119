//! `jumpgate locate`: where a key lives.

use clap::Args;

use super::output::{Output, printable};
use super::{Failure, Target};
use crate::api::{Key, Location};

/// The arguments of `locate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Clients never need this: any node takes any request. It is for people who wonder what would happen if a node died.

Examples:
  jumpgate locate users/ada
  jumpgate locate users/ada --json | jq -r .primary")]
pub struct Locate {
    /// The key, whether or not it has a value
    pub key: String,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

impl Locate {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let key = Key::new(self.key).map_err(|error| Failure::Usage(error.to_string()))?;
        let location = self.target.client()?.locate(&key).await?;
        let mut output = Output::new();
        if self.json {
            output.line(serde_json::to_string(&location).expect("a location has a JSON form"))?;
        } else {
            for line in told(&location) {
                output.line(line)?;
            }
        }
        output.flush()
    }
}

fn told(location: &Location) -> Vec<String> {
    let mut lines = vec![format!("{} is in partition {}", printable(&location.key), location.partition)];
    lines.push(match (&location.primary, location.lost) {
        (Some(primary), _) => format!("led by  {primary}"),
        (None, true) => "led by  nobody: no copy is left".to_owned(),
        (None, false) => "led by  nobody at the moment".to_owned(),
    });
    let names = |names: &[String]| if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
    lines.push(format!("in sync {}", names(&location.in_sync)));
    if !location.learners.is_empty() {
        lines.push(format!("filling {}", names(&location.learners)));
    }
    lines.push(format!("belongs to {}", names(&location.owners)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_words() {
        let mut location = Location {
            key: "a".to_owned(),
            partition: 7,
            primary: Some("n2".to_owned()),
            in_sync: vec!["n1".to_owned(), "n2".to_owned()],
            learners: vec!["n3".to_owned()],
            owners: vec!["n2".to_owned(), "n1".to_owned()],
            lost: false,
        };
        let lines = ["a is in partition 7", "led by  n2", "in sync n1, n2", "filling n3", "belongs to n2, n1"];
        assert_eq!(told(&location), lines);
        location = Location { primary: None, in_sync: vec![], learners: vec![], lost: true, ..location };
        assert_eq!(told(&location)[1..3], ["led by  nobody: no copy is left", "in sync nobody"]);
    }
}
