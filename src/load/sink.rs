//! Owns the meeting of parsers and sender: buffers per table, full ones handed on, bad lines told; does not parse.

use std::collections::HashMap;

use anyhow::Result;
use tidewell_codec::Batch;

use super::rows::RowBuffer;

/// A buffer is handed on with this many rows. Several shards share it, so batches are smaller than that.
const ROWS_FULL: usize = 32_768;
/// ... or when its rows may take so many bytes: half of what one batch may have.
const BYTES_FULL: usize = 8 << 20;
/// ... or with so many values, nulls included: wide tables meet the node's bound on rows times fields first.
const CELLS_FULL: usize = 2 << 20;
/// Bad lines that are printed one by one; more are only counted.
const PRINTED_MAX: u64 = 20;

/// Whether a parser goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Next row.
    Continue,
    /// Enough: an error ends the load, or the sender is gone.
    Stop,
}

/// Where parsers put rows.
pub trait Sink {
    /// The buffer of `table`.
    fn table(&mut self, table: &str) -> &mut RowBuffer;

    /// Called when a row is in its buffer.
    ///
    /// # Errors
    /// When what is full cannot be handed on.
    fn after_row(&mut self) -> Result<Flow>;

    /// A line that is not a row.
    ///
    /// # Errors
    /// Never for the line itself; that is what the answer says.
    fn bad(&mut self, line: u64, reason: &str) -> Result<Flow>;
}

/// What to do with a line that is not a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    /// Send what came before it, then end with exit code 1
    Stop,
    /// Report it, count it, go on
    Skip,
}

/// The sink of a load: hands batches to `send`, which may block.
pub struct BatchSink<F> {
    buffers: HashMap<String, RowBuffer>,
    shard_count: u32,
    on_error: OnError,
    file: String,
    send: F,
    /// Lines that were no rows.
    pub bad_lines: u64,
    /// Rows parsed.
    pub rows: u64,
    /// A bad line ended the load.
    pub stopped: bool,
    report: Box<dyn FnMut(String) + Send>,
}

impl<F: FnMut(Batch) -> bool> BatchSink<F> {
    /// A sink; `send` answers false when nothing more is taken, `report` gets lines for the user.
    pub fn new(shard_count: u32, on_error: OnError, send: F, report: Box<dyn FnMut(String) + Send>) -> Self {
        Self {
            buffers: HashMap::new(),
            shard_count,
            on_error,
            file: String::new(),
            send,
            bad_lines: 0,
            rows: 0,
            stopped: false,
            report,
        }
    }

    /// Messages are about this file from now on.
    pub fn begin_file(&mut self, name: &str) {
        name.clone_into(&mut self.file);
    }

    /// Hands on what is left.
    pub fn finish(&mut self) -> Flow {
        let mut tables: Vec<&mut RowBuffer> = self.buffers.values_mut().filter(|b| !b.is_empty()).collect();
        tables.sort_by_key(|b| std::cmp::Reverse(b.len()));
        for buffer in tables {
            for batch in buffer.take(self.shard_count) {
                if !(self.send)(batch) {
                    return Flow::Stop;
                }
            }
        }
        if self.bad_lines > PRINTED_MAX {
            (self.report)(format!("... and {} more bad lines", self.bad_lines - PRINTED_MAX));
        }
        Flow::Continue
    }
}

impl<F: FnMut(Batch) -> bool> Sink for BatchSink<F> {
    fn table(&mut self, table: &str) -> &mut RowBuffer {
        if !self.buffers.contains_key(table) {
            self.buffers.insert(table.to_owned(), RowBuffer::new(table));
        }
        self.buffers.get_mut(table).expect("it was just put there")
    }

    fn after_row(&mut self) -> Result<Flow> {
        self.rows += 1;
        // Looking at every buffer for every row would cost more than the row; line protocol has few tables.
        if !self.rows.is_multiple_of(256) {
            return Ok(Flow::Continue);
        }
        let shard_count = self.shard_count;
        for buffer in self.buffers.values_mut() {
            if buffer.len() < ROWS_FULL && buffer.bytes() < BYTES_FULL && buffer.cells() < CELLS_FULL {
                continue;
            }
            for batch in buffer.take(shard_count) {
                if !(self.send)(batch) {
                    return Ok(Flow::Stop);
                }
            }
        }
        Ok(Flow::Continue)
    }

    fn bad(&mut self, line: u64, reason: &str) -> Result<Flow> {
        self.bad_lines += 1;
        if self.bad_lines <= PRINTED_MAX {
            // A damaged cell may hold line ends or worse: a message stays one line.
            let reason = reason.replace(char::is_control, "\u{fffd}");
            (self.report)(format!("{}:{line}: {reason}", self.file));
        }
        match self.on_error {
            OnError::Skip => Ok(Flow::Continue),
            OnError::Stop => {
                self.stopped = true;
                Ok(Flow::Stop)
            }
        }
    }
}
