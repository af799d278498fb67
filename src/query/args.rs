//! Owns the flags of `tidewell query` and their help; does not act on them.

use clap::{Args, Subcommand};

use crate::cli::NodeArgs;
use crate::output::Format;
use crate::units::Span;

/// The questions.
#[derive(Debug, Subcommand)]
pub enum QueryCommand {
    /// Rows of a range of time, ordered by device and time
    #[command(
        after_help = "Example:\n  tidewell query range --table readings --devices truck_1 --last 1h --where 'velocity > 50' --limit 20"
    )]
    Range(RangeArgs),
    /// The last value of each field, one row per device
    #[command(
        after_help = "Example:\n  tidewell query latest --table readings --glob 'truck_*' --fields velocity,fuel_state"
    )]
    Latest(LatestArgs),
    /// Aggregates per window of time
    #[command(
        after_help = "Example:\n  tidewell query downsample --table readings --every 1h --aggregates mean,max,count --fields velocity --group all"
    )]
    Downsample(DownsampleArgs),
    /// Intervals in which a condition held
    #[command(
        after_help = "Example:\n  tidewell query threshold --table readings --where 'engine_temperature > 110' --for 5m --max-gap 1m"
    )]
    Threshold(ThresholdArgs),
    /// SQL (not in this release)
    Sql(SqlArgs),
}

/// Which node, and how the answer is printed.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// How the answer is printed [default: table on a terminal, csv otherwise]
    #[arg(long, value_enum, help_heading = "Output")]
    pub format: Option<Format>,
    /// One JSON object a row: short for --format json
    #[arg(long, conflicts_with = "format", help_heading = "Output")]
    pub json: bool,
    /// Print the request instead of sending it
    #[arg(long, help_heading = "Output")]
    pub print_request: bool,
}

/// Table and devices.
#[derive(Debug, Args)]
pub struct ScopeArgs {
    /// The table
    #[arg(long, required_unless_present = "json_request")]
    pub table: Option<String>,
    /// Ids, separated by commas; without any device flag all that the certificate may read
    #[arg(long, value_delimiter = ',', value_name = "ID,...", conflicts_with_all = ["glob", "attribute"])]
    pub devices: Vec<String>,
    /// Ids that match a pattern, e.g. 'truck_*'
    #[arg(long, value_name = "PATTERN", conflicts_with = "attribute")]
    pub glob: Option<String>,
    /// Devices with this attribute, e.g. fleet=north; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub attribute: Vec<String>,
    /// Fields, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_name = "FIELD,...")]
    pub fields: Vec<String>,
    /// The whole request as JSON instead of flags, e.g. '{"latest": {"table": "readings"}}'; `-` reads standard input
    #[arg(long, value_name = "JSON")]
    pub json_request: Option<String>,
}

/// A range of time.
#[derive(Debug, Args)]
pub struct TimeArgs {
    /// First time: RFC 3339, a date, nanoseconds since 1970, `now` or `now-15m` [default: the beginning]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub start: Option<String>,
    /// Time after the last one, written as --start [default: the end]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub end: Option<String>,
    /// Short for --start now-SPAN --end now
    #[arg(long, value_name = "SPAN", conflicts_with_all = ["start", "end"])]
    pub last: Option<Span>,
}

/// `query range`.
#[derive(Debug, Args)]
pub struct RangeArgs {
    /// Table and devices.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Range of time.
    #[command(flatten)]
    pub time: TimeArgs,
    /// Only rows for which this holds, e.g. 'velocity > 50 AND status IN (1, 2)'
    #[arg(long = "where", value_name = "CONDITION")]
    pub condition: Option<String>,
    /// At most so many rows
    #[arg(long, value_name = "ROWS")]
    pub limit: Option<u64>,
    /// How to ask and print.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `query latest`.
#[derive(Debug, Args)]
pub struct LatestArgs {
    /// Table and devices.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// As it was at this time, written as --start of `range`
    #[arg(long, value_name = "TIME")]
    pub as_of: Option<String>,
    /// How to ask and print.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `query downsample`.
#[derive(Debug, Args)]
pub struct DownsampleArgs {
    /// Table and devices.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Range of time.
    #[command(flatten)]
    pub time: TimeArgs,
    /// Length of a window: 10s, 5m, 1h, or of the calendar 1d, 1mo, 1y
    #[arg(long, value_name = "SPAN", required_unless_present = "json_request")]
    pub every: Option<String>,
    /// Windows are counted from here [default: 1970-01-01T00:00:00Z]
    #[arg(long, value_name = "TIME")]
    pub origin: Option<String>,
    /// Zone of calendar windows, e.g. Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// mean, min, max, count, sum, first, last; separated by commas [default: mean]
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub aggregates: Vec<String>,
    /// device, all, or attribute:NAME [default: device]
    #[arg(long)]
    pub group: Option<String>,
    /// Windows without a value: none, null, previous, linear [default: none]
    #[arg(long)]
    pub fill: Option<String>,
    /// How to ask and print.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `query threshold`.
#[derive(Debug, Args)]
pub struct ThresholdArgs {
    /// Table and devices.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Range of time.
    #[command(flatten)]
    pub time: TimeArgs,
    /// The condition, e.g. 'velocity > 95 AND status = 2'
    #[arg(long = "where", value_name = "CONDITION", required_unless_present = "json_request")]
    pub condition: Option<String>,
    /// Only intervals at least this long
    #[arg(long = "for", value_name = "SPAN")]
    pub at_least: Option<String>,
    /// Rows further apart than this end an interval [default: no bound]
    #[arg(long, value_name = "SPAN")]
    pub max_gap: Option<String>,
    /// intervals, rows or devices [default: intervals]
    #[arg(long = "return", value_name = "WHAT")]
    pub answer: Option<String>,
    /// How to ask and print.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `query sql`.
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// The statement
    pub statement: Vec<String>,
    /// How to ask and print.
    #[command(flatten)]
    pub ask: AskArgs,
}
