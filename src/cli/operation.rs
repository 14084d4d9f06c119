//! How an operation goes: the cluster is asked for the plan, people are asked whether to go on, it is done, and what was
//! done is told.
//!
//! ```text
//! plan ──▶ stderr ──▶ Go on? [y/N] ──▶ done ──▶ stdout
//!            │             ├── no, or no answer ──▶ exit code 1
//!            │             └── nobody there to ask, and no --yes ──▶ exit code 2
//!            └── --dry-run: to stdout, and that is all
//! ```

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use clap::Args;

use super::output::{Output, note, printable};
use super::{Failure, Target};
use crate::api::{AdminAction, AdminReport, AdminRequest, Recovered};
use crate::client::ClientError;

/// A longer answer to a question isn't one.
const ANSWER_BYTES_MAX: u64 = 1024;

/// How long the plan may take: it is at hand. The operation itself may take as long as `--timeout` says.
const PLAN_TIMEOUT: Duration = Duration::from_secs(10);

/// The options that all operations share.
#[derive(Clone, Debug, Args)]
#[command(mut_arg("timeout", |timeout| timeout.default_value("60s")))]
pub struct Operating {
    /// Do it without asking
    #[arg(long, short)]
    pub yes: bool,
    /// Only say what would be done
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

impl Operating {
    /// Plans `action`, asks, does it, and tells what was done. Where it concerns `this_node_only`, the one gateway that
    /// told the plan carries it out.
    pub(super) async fn carry_out(&self, action: AdminAction, this_node_only: bool) -> Result<(), Failure> {
        let client = self.target.client()?;
        let planner = client.clone().with_timeout(self.target.timeout.min(PLAN_TIMEOUT));
        let plan = planner.admin(&AdminRequest { action: action.clone(), dry_run: true }).await.map_err(failure)?;
        if self.dry_run {
            return self.tell("would be done", &plan);
        }
        let by = if this_node_only { format!(" by the node at {}", planner.last_url()) } else { String::new() };
        note(&format!("this will be done{by}:"));
        for line in lines(&plan) {
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
        if !self.yes {
            ask()?;
        }
        let client = if this_node_only { planner.of_last().with_timeout(self.target.timeout) } else { client };
        let report = client.admin(&AdminRequest { action, dry_run: false }).await.map_err(failure)?;
        self.tell("done", &report)
    }

    fn tell(&self, heading: &str, report: &AdminReport) -> Result<(), Failure> {
        let mut output = Output::new();
        if self.json {
            output.line(serde_json::to_string_pretty(report).expect("a report has a JSON form"))?;
        } else {
            output.line(format!("{heading}:"))?;
            lines(report).iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()
    }
}

/// Asks whether to go on.
fn ask() -> Result<(), Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::Usage(
            "nothing was done: there is no terminal to ask on; give --yes to do it without being asked".to_owned(),
        ));
    }
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "Go on? [y/N] ").and_then(|()| stderr.flush());
    drop(stderr);
    let mut answer = String::new();
    // What can't be read is no consent.
    let read = io::stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut answer);
    if read.is_ok() && is_consent(&answer) { Ok(()) } else { Err(Failure::Failed("nothing was done".to_owned())) }
}

fn is_consent(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// The server's word on a name or a combination that makes no sense is about the usage; an answer that is missing is
/// about an operation and not about a write of a value.
fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::OutcomeUnknown { url, reason } => Failure::Failed(format!(
            "it is not known whether it was done: {reason} ({url}); `jumpgate status` shows how things are"
        )),
        ClientError::Refused { ref problem, .. } if problem.status == 400 => Failure::Usage(error.to_string()),
        other => other.into(),
    }
}

/// A report for people.
fn lines(report: &AdminReport) -> Vec<String> {
    let steps = report.steps.iter().enumerate();
    let mut lines: Vec<String> = steps.map(|(nth, step)| format!("  {}. {}", nth + 1, printable(step))).collect();
    if let Some(recovered) = &report.recovered {
        lines.extend(recovered_lines(recovered));
    }
    if lines.is_empty() {
        lines.push("  nothing".to_owned());
    }
    lines
}

fn recovered_lines(recovered: &Recovered) -> [String; 3] {
    let Recovered { clean, lossy, lost } = recovered;
    let listed =
        |partitions: &[u16]| if partitions.is_empty() { String::new() } else { format!(": {}", ranges(partitions)) };
    [
        format!("  CLEAN {clean:>5}  a survivor was in sync: no acknowledged write is missing"),
        format!("  LOSSY {:>5}  acknowledged writes may be missing{}", lossy.len(), listed(lossy)),
        format!("  LOST  {:>5}  nothing survives{}", lost.len(), listed(lost)),
    ]
}

/// Partitions in rising order, runs of them by their ends: `p3, p7-p9`.
pub(super) fn ranges(partitions: &[u16]) -> String {
    let mut sorted = partitions.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let runs = sorted.chunk_by(|one, next| one + 1 == *next);
    let run = |run: &[u16]| match run {
        [only] => format!("p{only}"),
        [first, .., last] => format!("p{first}-p{last}"),
        [] => String::new(),
    };
    runs.map(run).collect::<Vec<String>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_consent() {
        for yes in ["y", "Y\n", " yes \r\n", "YES"] {
            assert!(is_consent(yes), "{yes:?}");
        }
        for no in ["", "\n", "n", "no", "yess", "y y", "yeah"] {
            assert!(!is_consent(no), "{no:?}");
        }
    }

    #[test]
    fn partitions_are_listed_by_the_ends_of_their_runs() {
        assert_eq!(ranges(&[9, 3, 7, 8]), "p3, p7-p9");
        assert_eq!(ranges(&[0, 1, 65535, 1]), "p0-p1, p65535");
        assert_eq!(ranges(&[]), "");
    }

    #[test]
    fn a_report_says_what_became_of_the_partitions() {
        let recovered = Recovered { clean: 4090, lossy: vec![3, 7, 8, 9], lost: vec![] };
        let report = AdminReport { steps: vec!["a new generation\u{7}".to_owned()], recovered: Some(recovered) };
        let expected = [
            "  1. a new generation\\u{7}",
            "  CLEAN  4090  a survivor was in sync: no acknowledged write is missing",
            "  LOSSY     4  acknowledged writes may be missing: p3, p7-p9",
            "  LOST      0  nothing survives",
        ];
        assert_eq!(lines(&report), expected);
        assert_eq!(lines(&AdminReport::default()), ["  nothing"]);
    }
}
