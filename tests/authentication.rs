//! Nodes that share a secret, and those who would like to be taken for one.
//!
//! | file | where |
//! |---|---|
//! | `pulses` | the pulse plane of a simulated cluster, where every state can be looked at |
//! | `cores` | three control cores in a loop: a million votes, and log entries that are none |
//! | `servers` | servers of this process on real sockets |
//! | `corruption` | the same behind a wire that flips bits |
//! | `bombs` | inputs that are small and ask for much |
//!
//! Real processes are in `tests/processes/secrets.rs`.

#[path = "authentication/bombs.rs"]
mod bombs;
#[path = "authentication/cores.rs"]
mod cores;
#[path = "authentication/corruption.rs"]
mod corruption;
#[path = "authentication/pulses.rs"]
mod pulses;
#[path = "authentication/servers.rs"]
mod servers;
