//! What the consensus machine promises, one test a promise.

mod changes;
mod golden;
mod hostile;
mod lone;
mod paper;
mod planes;
mod random;
