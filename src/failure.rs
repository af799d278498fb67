//! Owns how the program ends: exit codes and the one line an error becomes; does not know what failed.

use std::fmt;

/// Everything was done, and the answer is good.
pub const EXIT_OK: u8 = 0;
/// The work could not be done, or was done and the answer is bad (damage found, rows refused, a check failed).
pub const EXIT_FAILED: u8 = 1;
/// The command line or the configuration is wrong; nothing was started. Also clap's own code.
pub const EXIT_USAGE: u8 = 2;

/// Marks an error as the caller's: wrong flags, wrong configuration.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A usage error with this message.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Usage(message.into()))
}

/// The code that `error` ends the process with.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<Usage>()) { EXIT_USAGE } else { EXIT_FAILED }
}

/// The whole chain of `error` as one line: `<what failed>: <path or peer>: <expected, found>; <next step>`.
///
/// A cause that the message before it already quotes is not said twice.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if text.is_empty() || line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_chain_is_one_line_without_repeats() {
        let error = Err::<(), _>(std::io::Error::other("disk\n gone"))
            .context("read a.toml")
            .context("load configuration: read a.toml")
            .unwrap_err();
        assert_eq!(one_line(&error), "load configuration: read a.toml: disk gone");
        assert_eq!(exit_code(&error), EXIT_FAILED);
        assert_eq!(exit_code(&usage("no such flag").context("serve")), EXIT_USAGE);
    }
}
