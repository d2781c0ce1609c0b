//! Writes what packages bring along beside the programs: manual pages and shell completions.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory, Parser};
use clap_complete::Shell;

/// Writes the manual pages and shell completions of vchatd and vchat-client, made from their command lines.
#[derive(Parser)]
#[command(name = "vchat-papers", version)]
struct Args {
    /// Where to; made if it is not there
    dir: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let Args { dir } = Args::parse();
    for program in [vchatd::config::Flags::command(), vchat_client::cli::Cli::command()] {
        write(&dir, helpless(program))?;
    }
    Ok(())
}

/// Without the commands that explain commands: each would have a page of its own.
fn helpless(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(helpless)
}

fn write(dir: &Path, mut program: Command) -> anyhow::Result<()> {
    let name = program.get_name().to_owned();
    let man = dir.join(&name).join("man1");
    let completions = dir.join(&name).join("completions");
    for dir in [&man, &completions] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut program, &name, &completions)?;
    }
    clap_mangen::generate_to(program.version(env!("CARGO_PKG_VERSION")), &man)?;
    Ok(())
}
