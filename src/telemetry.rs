//! Owns the log output of the process: format, filter, standard error; does not own metrics (`admin`).

use std::io::IsTerminal;

use anyhow::Result;
use tracing_subscriber::EnvFilter;

use crate::failure::usage;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// Starts logging to standard error; standard output belongs to answers.
///
/// `filter` is a level (`info`) or a list such as `warn,tidewell_engine=debug`.
///
/// # Errors
/// When `filter` is not understood.
pub fn start(format: LogFormat, filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|e| {
        usage(format!("log filter: `{filter}`: {e}; write a level such as info or warn,tidewell_engine=debug"))
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    // A second start (tests in one process) is not worth an error.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_a_usage_error() {
        let error = start(LogFormat::Text, "tidewell=loud").unwrap_err();
        assert_eq!(crate::failure::exit_code(&error), crate::failure::EXIT_USAGE);
    }
}
