//! The program itself: clusters of real processes on real sockets, killed with real signals.
//!
//! | file | what it proves |
//! |---|---|
//! | `start` | starting, and refusing to start |
//! | `service` | what clients get from a healthy cluster of processes: relayed requests, listings, the feed, expiry |
//! | `failures` | what is left when processes are killed and come back |
//! | `traffic` | what was acknowledged while processes were killed under load |
//! | `hostile` | what doesn't disturb a cluster |
//! | `secrets` | secrets that are replaced under load, and a crowd that has none |
//!
//! Nothing here asserts how long something takes: it waits until it has happened.

#[path = "processes/failures.rs"]
mod failures;
#[path = "support/feed.rs"]
mod feed;
#[path = "processes/hostile.rs"]
mod hostile;
#[path = "support/http.rs"]
mod http;
#[path = "support/processes.rs"]
mod processes;
#[path = "processes/secrets.rs"]
mod secrets;
#[path = "processes/service.rs"]
mod service;
#[path = "processes/start.rs"]
mod start;
#[path = "processes/traffic.rs"]
mod traffic;
