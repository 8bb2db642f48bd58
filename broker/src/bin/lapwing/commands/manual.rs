//! `lapwing completions` and `lapwing man`: made from the declared arguments.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, Args, Command, CommandFactory};
use clap_complete::Shell;

use super::tools::Tools;
use crate::arguments::Arguments;

/// Options of `lapwing completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Options of `lapwing man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The folder for a page of each command; without it the page of lapwing itself is printed
    folder: Option<PathBuf>,
}

/// Prints the completions for a shell.
pub fn completions(completions: &Completions) -> Result<ExitCode, String> {
    let mut text = Vec::new();
    clap_complete::generate(completions.shell, &mut whole(), "lapwing", &mut text);
    print(&text)
}

/// Prints the manual page, or writes all pages.
pub fn man(man: &Man) -> Result<ExitCode, String> {
    let Some(folder) = &man.folder else {
        let mut text = Vec::new();
        let rendered = clap_mangen::Man::new(whole()).render(&mut text);
        rendered.map_err(|error| error.to_string())?;
        return print(&text);
    };
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(whole(), folder));
    written.map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn print(text: &[u8]) -> Result<ExitCode, String> {
    io::stdout().write_all(text).map_err(|error| format!("standard output: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns all commands in one. The tools use some letters of the broker's arguments for other
/// things. So the arguments of every command are added to each of the others by hand.
fn whole() -> Command {
    let root = Arguments::command();
    let everywhere: Vec<Arg> = root.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    let everywhere: Vec<Arg> = everywhere.into_iter().map(|arg| arg.global(false)).collect();
    let tools = Tools::command();
    root.mut_args(|arg| arg.global(false)).mut_subcommands(|command| {
        match tools.find_subcommand(command.get_name()) {
            Some(tool) => tool.clone().disable_help_flag(true),
            None => with(command, &everywhere),
        }
    })
}

fn with(command: Command, more: &[Arg]) -> Command {
    command.args(more).mut_subcommands(|command| with(command, more))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_arguments_of_all_commands_stand_together() {
        super::whole().debug_assert();
    }
}
