//! The program itself: clusters of real processes on real sockets, killed with real signals.
//!
//! | file | what it proves |
//! |---|---|
//! | `access` | HTTPS and tokens from files, from `jumpgate cert` and `jumpgate token` to a token that is taken back |
//! | `start` | starting, and refusing to start |
//! | `bench` | that a bench reports what it did |
//! | `service` | what clients get from a healthy cluster of processes: relayed requests, listings, the feed, expiry |
//! | `failures` | what is left when processes are killed and come back |
//! | `traffic` | what was acknowledged while processes were killed under load |
//! | `hostile` | what doesn't disturb a cluster |
//! | `faults` | what clients see on a bad network, and while the leader stands still |
//! | `secrets` | secrets that are replaced under load, and a crowd that has none |
//! | `viewers` | what becomes of a viewer of the feed that reads too slowly |
//!
//! `weather`, `relay`, `load`, `history` and `statistics` are shared with `examples/faults`, which measures the same; their
//! own tests run here.
//!
//! Nothing here asserts how long something takes: it waits until it has happened.

#[path = "processes/access.rs"]
mod access;
#[path = "processes/bench.rs"]
mod bench;
#[path = "processes/failures.rs"]
mod failures;
#[path = "processes/faults.rs"]
mod faults;
#[path = "support/feed.rs"]
mod feed;
#[path = "support/history.rs"]
#[allow(dead_code, reason = "what measures is used by examples/faults")]
mod history;
#[path = "processes/hostile.rs"]
mod hostile;
#[path = "support/http.rs"]
mod http;
#[path = "support/load.rs"]
#[allow(dead_code, reason = "what measures is used by examples/faults")]
mod load;
#[path = "support/processes.rs"]
#[allow(dead_code, reason = "what measures is used by examples/faults")]
mod processes;
#[path = "support/relay.rs"]
#[allow(dead_code, reason = "what measures is used by examples/faults")]
mod relay;
#[path = "processes/secrets.rs"]
mod secrets;
#[path = "processes/service.rs"]
mod service;
#[path = "processes/start.rs"]
mod start;
#[path = "support/statistics.rs"]
#[allow(dead_code, reason = "what measures is used by examples/faults")]
mod statistics;
#[path = "processes/traffic.rs"]
mod traffic;
#[path = "processes/viewers.rs"]
mod viewers;
#[path = "support/weather.rs"]
mod weather;
