//! The `jumpgate` program: reads the command line, runs the command, and ends with its exit code.

use std::process::ExitCode;

use clap::Parser as _;
use jumpgate::cli::{Arguments, Command, Failure};

/// Values of all sizes come and go for months: what is free must not end up in pieces that nothing fits into.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        // The server's commands have a runtime of their own, which fits the machine.
        Command::Serve(serve) => serve.run(),
        Command::Dev(dev) => dev.run(),
        Command::Secret(secret) => secret.run(),
        Command::Token(token) => token.run(),
        Command::Cert(cert) => cert.run(),
        Command::Completions(completions) => completions.run(),
        // A client spends its time waiting: two threads let it encode while it sends.
        Command::Client(command) => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))?
            .block_on(command.run()),
    }
}
