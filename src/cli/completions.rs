//! `jumpgate completions`: what a shell needs to complete this program's commands and options.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::output::Output;
use super::{Arguments, Failure};

/// The arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  jumpgate completions bash > /etc/bash_completion.d/jumpgate
  jumpgate completions zsh > ~/.zfunc/_jumpgate            with ~/.zfunc in fpath
  jumpgate completions fish > ~/.config/fish/completions/jumpgate.fish")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

impl Completions {
    /// Writes them to stdout.
    ///
    /// # Errors
    /// Where stdout can't be written to.
    pub fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "jumpgate", &mut script);
        let mut output = Output::new();
        output.bytes(&script)?;
        output.flush()
    }
}
