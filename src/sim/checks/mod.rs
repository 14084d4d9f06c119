//! What must hold after every input, judged by somebody who sees all nodes at once and forgets nothing.
//!
//! | part | what it knows |
//! |---|---|
//! | `consensus` | leaders, votes, entries and memberships of every log; who may commit, and who may lead |
//! | `data` | how far each partition is committed, and who must have it |
//! | `readers` | who may answer reads: never two at once |

mod consensus;
mod data;
mod readers;

pub(super) use consensus::Consensus;
pub(super) use data::{Data, may_hold, replica};
pub(super) use readers::Readers;
