//! Owns the process: parse, run, print the error, exit code.

use std::process::ExitCode;

use clap::Parser;
use tidewell::cli::Cli;
use tidewell::failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match tidewell::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("tidewell: {}", failure::one_line(&error));
            ExitCode::from(failure::exit_code(&error))
        }
    }
}
