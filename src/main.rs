//! The `jumpgate` program.

fn main() {}
