//! Nodes that share a secret, and those who would like to be taken for one: on the pulse plane of a simulated cluster,
//! where every state can be looked at, and around servers on real sockets.

#[path = "authentication/pulses.rs"]
mod pulses;
#[path = "authentication/servers.rs"]
mod servers;
