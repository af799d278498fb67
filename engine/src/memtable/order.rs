//! Owns bringing a device's runs into order of time where rows came late; copies no value.
//!
//! Few rows come late, and not very late: those that do not rise are put aside, sorted, and merged into the others. The
//! columns are then gathered once, in the order in which they are written, instead of gathered, sorted and copied.

use super::Run;

/// One row of a chunk.
#[derive(Clone, Copy)]
struct Row {
    time: i64,
    chunk: u32,
    row: u32,
}

/// The rows of `runs`, which are in log order, as runs whose times do not fall; `None` when they rise already. Rows of
/// one time stay in log order; with `last_wins` only the last of them is left. `times` are those of each chunk.
pub(super) fn in_time_order(times: &[&[i64]], runs: &[Run], last_wins: bool) -> Option<Vec<Run>> {
    let (mut rising, mut late) = (Vec::with_capacity(runs.iter().map(|run| run.len as usize).sum()), Vec::new());
    let mut highest = None;
    for run in runs {
        let times = &times[run.chunk as usize][run.start as usize..(run.start + run.len) as usize];
        for (row, &time) in (run.start..).zip(times) {
            let rises = highest.is_none_or(|highest| time > highest);
            let to = if rises { &mut rising } else { &mut late };
            to.push(Row { time, chunk: run.chunk, row });
            highest = highest.max(Some(time));
        }
    }
    if late.is_empty() {
        return None;
    }
    // Stable, so that rows of one time stay in log order.
    late.sort_by_key(|row: &Row| row.time);
    let mut out = Merged { runs: Vec::with_capacity(runs.len() + 2 * late.len()), time: None, last_wins };
    let mut rising = rising.into_iter().peekable();
    for row in late {
        // Of one time, the row that rose to it came before those that did not.
        while let Some(earlier) = rising.next_if(|rising| rising.time <= row.time) {
            out.push(earlier);
        }
        out.push(row);
    }
    rising.for_each(|row| out.push(row));
    Some(out.runs)
}

struct Merged {
    runs: Vec<Run>,
    /// Of the last row.
    time: Option<i64>,
    last_wins: bool,
}

impl Merged {
    fn push(&mut self, row: Row) {
        if self.last_wins
            && self.time == Some(row.time)
            && let Some(last) = self.runs.last_mut()
        {
            last.len -= 1;
            if last.len == 0 {
                self.runs.pop();
            }
        }
        self.time = Some(row.time);
        match self.runs.last_mut() {
            Some(last) if last.chunk == row.chunk && last.start + last.len == row.row => last.len += 1,
            _ => self.runs.push(Run { chunk: row.chunk, start: row.row, len: 1 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_in_order_of_time_and_of_the_log(
            batches in prop::collection::vec(prop::collection::vec(0i64..40, 1..6), 1..30),
            rising in any::<bool>(),
            last_wins in any::<bool>(),
        ) {
            let mut chunks = Vec::new();
            let mut runs = Vec::new();
            for (chunk, offsets) in batches.iter().enumerate() {
                // Mostly rising by far more than rows are late, or all over the place.
                let base = if rising { chunk as i64 * 25 } else { 0 };
                let times: Vec<i64> = [i64::MIN].into_iter().chain(offsets.iter().map(|offset| base + offset)).collect();
                runs.push(Run { chunk: chunk as u32, start: 1, len: offsets.len() as u32 });
                chunks.push(times);
            }
            let rows_of = |runs: &[Run]| -> Vec<(i64, u32, u32)> {
                let rows = runs.iter().flat_map(|run| (run.start..run.start + run.len).map(|row| (run.chunk, row)));
                rows.map(|(chunk, row)| (chunks[chunk as usize][row as usize], chunk, row)).collect()
            };
            let mut expected = rows_of(&runs);
            let is_rising = expected.windows(2).all(|pair| pair[0].0 < pair[1].0);
            expected.sort_by_key(|(time, _, _)| *time);
            if last_wins {
                expected.reverse();
                expected.dedup_by_key(|(time, _, _)| *time);
                expected.reverse();
            }
            let times: Vec<&[i64]> = chunks.iter().map(|times| &times[..]).collect();
            match in_time_order(&times, &runs, last_wins) {
                Some(found) => prop_assert_eq!(rows_of(&found), expected),
                None => prop_assert!(is_rising),
            }
        }
    }
}
