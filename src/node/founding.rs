//! What a process that knows no cluster can do for an operator.

use super::member::slot_of;
use crate::api::{AdminAction, AdminReport, AdminRequest, Error};
use crate::base::{Instant, Options, SlotSet};
use crate::control::Bootstrap;

/// Founds a cluster without the nodes that are gone for good.
pub(super) fn found_by_force(
    now: Instant,
    options: &Options,
    bootstrap: &mut Bootstrap,
    request: &AdminRequest,
) -> Result<AdminReport, Error> {
    let AdminAction::InitForce { without } = &request.action else {
        return Err(Error::NoQuorum("this process knows no cluster yet".to_owned()));
    };
    let names = |slots: SlotSet| slots.iter().map(|slot| options.name(slot).to_owned()).collect::<Vec<_>>().join(", ");
    let mut missing = SlotSet::EMPTY;
    for name in without {
        missing.insert(slot_of(options, name)?);
    }
    let silent = bootstrap.silent(now);
    let there = missing.difference(silent);
    let unnamed = silent.difference(missing);
    if missing.is_empty() {
        return Err(Error::BadRequest("name the nodes that are gone for good".to_owned()));
    } else if !there.is_empty() {
        return Err(Error::Conflict(format!("{} can't be missing: heard of it a moment ago", names(there))));
    } else if !unnamed.is_empty() {
        return Err(Error::Conflict(format!("{} doesn't answer either: start it, or name it too", names(unnamed))));
    }
    if !request.dry_run {
        bootstrap.force(now, missing);
    }
    let founders = SlotSet::first(options.slots).difference(missing);
    let steps = vec![
        format!("{} found a new and empty cluster without {}", names(founders), names(missing)),
        format!("if a cluster with data lives on {}, it is a second one from then on", names(missing)),
        "whoever was missing joins as an empty node when it is started".to_owned(),
    ];
    Ok(AdminReport { steps, recovered: None })
}
