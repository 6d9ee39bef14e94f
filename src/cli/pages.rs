//! `completions` and `man`: what a package installs beside the binary, made from the command line itself.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{CANT_CREATE, Cli, Failure, SYSTEM, print};

#[derive(Args)]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args)]
pub(super) struct Man {
    /// Write webhookd.1 and a page for each command into this folder.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

impl Completions {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "webhookd", &mut script);
        print::line(String::from_utf8_lossy(&script).trim_end())
    }
}

impl Man {
    pub(super) fn run(&self) -> Result<(), Failure> {
        if let Some(folder) = &self.dir {
            let made = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
            return made.map_err(|error| Failure::new(CANT_CREATE, format!("{}: {error}", folder.display())));
        }
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered.map_err(|error| Failure::new(SYSTEM, error.to_string()))?;
        print::line(String::from_utf8_lossy(&page).trim_end())
    }
}
