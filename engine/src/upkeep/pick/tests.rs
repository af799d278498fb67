//! The decision over a simulated table: segments come and go by it, and what must stay true of them is checked at every
//! step. Rows are only counted.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A table whose segments are merged as [`flushed`] and [`partition`] say, on a clock of its own.
struct Table {
    segments: Vec<Candidate>,
    now_ns: i64,
    next_id: u64,
    next_seq: u64,
    rows_flushed: u64,
    rows_merged: u64,
    group_days_max: i64,
}

impl Table {
    fn new(now_ns: i64) -> Self {
        Self {
            segments: Vec::new(),
            now_ns,
            next_id: 1,
            next_seq: 1,
            rows_flushed: 0,
            rows_merged: 0,
            group_days_max: i64::MAX,
        }
    }

    fn flush(&mut self, rows: u64, devices: u64, days: std::ops::RangeInclusive<i64>) {
        let seq = self.next_seq;
        let (time_min, time_max) = (days.start() * DAY_NS, (days.end() + 1) * DAY_NS - 1);
        self.add(0, (seq, seq), rows, devices, (time_min, time_max), false);
        self.next_seq += 1;
        self.rows_flushed += rows;
    }

    fn add(&mut self, level: u8, seqs: (u64, u64), rows: u64, devices: u64, times: (i64, i64), cold: bool) {
        self.segments.push(Candidate {
            id: self.next_id,
            level,
            seq_min: seqs.0,
            seq_max: seqs.1,
            rows,
            devices,
            time_min: times.0,
            time_max: times.1,
            cold,
            created_ns: self.now_ns,
            paused: false,
        });
        self.next_id += 1;
    }

    /// Merges: rows are taken as spread evenly over the days of each input.
    fn apply(&mut self, due: &Due) {
        let inputs: Vec<Candidate> = self.segments.iter().filter(|s| due.inputs.contains(&s.id)).cloned().collect();
        assert_eq!(inputs.len(), due.inputs.len(), "inputs that exist");
        let seqs = (inputs.iter().map(|s| s.seq_min).min().unwrap(), inputs.iter().map(|s| s.seq_max).max().unwrap());
        let level = inputs.iter().map(|s| s.level).max().unwrap() + 1;
        let devices = inputs.iter().map(|s| s.devices).max().unwrap();
        let mut outputs: BTreeMap<i64, (u64, i64, i64)> = BTreeMap::new();
        for input in &inputs {
            let days = day_of(input.time_min)..=day_of(input.time_max);
            let count = (days.end() - days.start() + 1) as u64;
            for (at, day) in days.enumerate() {
                let rows = input.rows / count + u64::from((at as u64) < input.rows % count);
                if rows > 0 {
                    let (start, _) = due.split.range_of(day * DAY_NS);
                    let entry = outputs.entry(start).or_insert((0, day, day));
                    *entry = (entry.0 + rows, entry.1.min(day), entry.2.max(day));
                }
            }
        }
        self.segments.retain(|s| !due.inputs.contains(&s.id));
        for (rows, first, last) in outputs.into_values() {
            self.rows_merged += rows;
            self.add(level, seqs, rows, devices, (first * DAY_NS, (last + 1) * DAY_NS - 1), due.tier == Tier::Cold);
        }
        self.check(&inputs);
    }

    /// What must stay true, after a merge of `inputs`.
    fn check(&self, inputs: &[Candidate]) {
        let merged = || self.segments.iter().filter(|s| s.level > 0);
        let oldest_flushed = self.segments.iter().filter(|s| s.level == 0).map(|s| s.seq_min).min();
        assert!(merged().all(|s| oldest_flushed.is_none_or(|oldest| s.seq_max < oldest)), "flushed ones are later");
        for a in merged() {
            for b in merged().filter(|b| b.id > a.id && b.time_min <= a.time_max && a.time_min <= b.time_max) {
                assert!(a.seq_max < b.seq_min || b.seq_max < a.seq_min, "{a:?}\n{b:?}\nafter a merge of {inputs:#?}");
            }
        }
    }

    /// Merges all that is due now.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "merges end");
            let due = flushed(&self.segments, self.terms()).or_else(|| partition(&self.segments, self.terms()));
            match due {
                Some(due) => self.apply(&due),
                None => break,
            }
        }
    }

    /// Merges all that is due when nothing comes any more: flushed ones, then days, then groups.
    fn finish(&mut self) {
        for _ in 0..4 {
            self.pass(86_400);
            self.settle();
        }
    }

    fn pass(&mut self, seconds: i64) {
        self.now_ns += seconds * 1_000_000_000;
    }

    fn terms(&self) -> Terms {
        Terms { now_ns: self.now_ns, group_days_max: self.group_days_max }
    }

    fn rows(&self) -> u64 {
        self.segments.iter().map(|s| s.rows).sum()
    }
}

const TODAY: i64 = 20_000;

#[test]
fn busy_day_is_written_four_times_and_ends_as_one_cold_file() {
    let mut table = Table::new(TODAY * DAY_NS);
    // A flush of a million rows each minute.
    for _ in 0..1_440 {
        table.pass(60);
        table.flush(1_000_000, 1_000, TODAY..=TODAY);
        table.settle();
        assert!(table.segments.iter().filter(|s| s.level == 0).count() <= COMPACTION_FAN_IN);
        assert!(table.segments.len() <= 4 * COMPACTION_FAN_IN, "{}", table.segments.len());
    }
    table.pass(7_200);
    table.settle();
    assert_eq!(table.segments.len(), 1);
    assert!(table.segments[0].cold);
    assert_eq!(table.rows(), 1_440_000_000);
    // Into the day, twice among neighbours (8 to 64, 64 to 512 million rows), once in the end.
    assert!(table.rows_merged <= 4 * table.rows_flushed, "{} of {}", table.rows_merged, table.rows_flushed);
}

#[test]
fn late_rows_do_not_rewrite_their_day_each_time() {
    let mut table = Table::new(TODAY * DAY_NS);
    table.flush(100_000_000, 1_000, TODAY - 3..=TODAY - 3);
    table.pass(7_200);
    table.settle();
    let before = table.rows_merged;
    // For two days a flush each five minutes has a thousand rows that are three days late.
    for _ in 0..576 {
        table.pass(300);
        table.flush(1_000, 10, TODAY - 3..=TODAY - 3);
        table.settle();
    }
    assert!(table.rows_merged - before < 5 * 576_000, "{}", table.rows_merged - before);
    assert!(table.segments.len() < 30);
    // A day of quiet, and they are in.
    table.pass(90_000);
    table.settle();
    assert_eq!(table.segments.len(), 1);
    assert_eq!(table.rows(), 100_576_000);
}

#[test]
fn slow_devices_share_a_file_for_a_group_of_days_and_fast_ones_do_not() {
    let Group { first_day: group, days } = Group::of(TODAY, 32);
    for (rows, files) in [(1_440, 1), (8_640, 32)] {
        let mut table = Table::new(group * DAY_NS);
        for day in group..group + days {
            for _ in 0..16 {
                table.pass(5_400);
                table.flush(rows * 100 / 16, 100, day..=day);
                table.settle();
            }
        }
        table.finish();
        assert_eq!(table.segments.len(), files, "{rows} rows a day");
        // Nothing is left to do for a group of one file.
        let merged = table.rows_merged;
        table.pass(864_000);
        table.settle();
        assert_eq!(table.rows_merged, merged);
    }
}

#[test]
fn history_of_a_slow_fleet_does_not_become_a_file_for_each_day() {
    let mut table = Table::new(TODAY * DAY_NS);
    // Three years, a row a minute, device after device.
    for _ in 0..64 {
        table.flush(1_440 * 1_096, 1, TODAY - 1_100..=TODAY - 5);
        table.settle();
    }
    table.finish();
    // The group that is not over keeps its days.
    assert!(table.segments.len() < 36 + 32, "{}", table.segments.len());
    assert_eq!(table.rows(), 64 * 1_440 * 1_096);
}

#[test]
fn years_of_a_row_a_day_share_a_file_unless_retention_is_shorter() {
    let wide = Group::of(TODAY - 1_024, 1_024);
    for (group_days_max, files) in [(i64::MAX, 1), (500, 32), (20, 1_024)] {
        let mut table = Table::new((wide.last_day() + 3) * DAY_NS);
        table.group_days_max = group_days_max;
        for day in wide.first_day..=wide.last_day() {
            table.flush(10, 10, day..=day);
            table.settle();
        }
        table.finish();
        assert_eq!(table.segments.len(), files, "groups of at most {group_days_max} days");
        assert!(table.rows_merged <= 6 * table.rows_flushed, "{}", table.rows_merged);
        // A late row goes into the file of its days.
        table.flush(1, 1, wide.first_day + 7..=wide.first_day + 7);
        table.finish();
        assert_eq!(table.segments.len(), files);
    }
}

#[test]
fn shard_that_is_behind_writes_hot_and_the_days_become_cold_later() {
    let mut table = Table::new(TODAY * DAY_NS);
    for _ in 0..100 {
        table.flush(1_000, 10, TODAY..=TODAY);
    }
    let due = flushed(&table.segments, table.terms()).unwrap();
    assert_eq!((due.tier, due.urgent, due.inputs.len()), (Tier::Hot, true, INPUTS_MAX));
    // The oldest ones: what stays is later in log order.
    assert!(due.inputs.iter().all(|id| *id <= INPUTS_MAX as u64));
    table.settle();
    table.pass(2 * 86_400);
    table.settle();
    assert_eq!(table.segments.len(), 1);
    assert!(table.segments[0].cold);
}

#[test]
fn segment_whose_merge_failed_holds_up_its_own_partition_only() {
    let mut table = Table::new(TODAY * DAY_NS);
    for day in [TODAY - 9, TODAY - 5] {
        for _ in 0..8 {
            table.flush(100, 10, day..=day);
        }
        let due = flushed(&table.segments, table.terms()).unwrap();
        table.apply(&due);
        table.add(1, (table.next_seq, table.next_seq), 100, 10, (day * DAY_NS, day * DAY_NS + 1), true);
        table.next_seq += 1;
    }
    table.pass(86_400);
    table.segments[0].paused = true;
    let due = partition(&table.segments, table.terms()).unwrap();
    assert!(!due.inputs.contains(&table.segments[0].id));
    table.apply(&due);
    assert!(partition(&table.segments, table.terms()).is_none());
    table.segments[0].paused = false;
    assert!(partition(&table.segments, table.terms()).is_some());
}

#[test]
fn segments_of_a_program_that_did_not_cut_days_are_taken_apart() {
    let mut table = Table::new(TODAY * DAY_NS);
    let times = |first: i64, last: i64| (first * DAY_NS, last * DAY_NS + 5);
    table.add(2, (1, 64), 1_000_000, 10, times(TODAY - 40, TODAY - 3), true);
    table.add(1, (65, 72), 100_000, 10, times(TODAY - 4, TODAY - 2), true);
    table.next_seq = 73;
    table.pass(90_000);
    table.settle();
    let group = |time: i64| Group::of(day_of(time), 32);
    assert!(table.segments.iter().all(|s| group(s.time_min) == group(s.time_max)));
    assert_eq!(table.rows(), 1_100_000);
}

#[test]
fn neighbours_are_of_one_tier_and_smaller_ones_between_them() {
    assert_eq!(neighbours(&[1_000; 7]), None);
    assert_eq!(neighbours(&[1_000; 8]), Some(0..8));
    let mut rows = vec![1_000_000];
    rows.extend([1_000; 8]);
    assert_eq!(neighbours(&rows), Some(1..9));
    rows.insert(4, 5);
    assert_eq!(neighbours(&rows), Some(1..10));
    rows.insert(4, 500_000);
    assert_eq!(neighbours(&rows), None);
    assert_eq!(neighbours(&[]), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_order_is_kept_and_all_ends_tidy(
        steps in prop::collection::vec((1u64..50_000, 1u64..300, 0i64..80, 0i64..70, 0i64..40_000, any::<bool>()), 1..120),
    ) {
        let mut table = Table::new(TODAY * DAY_NS);
        for (rows, devices, days_ago, length, seconds, merge) in steps {
            table.pass(seconds);
            let last = day_of(table.now_ns) - days_ago;
            table.flush(rows, devices, last - length..=last);
            if merge {
                table.settle();
            }
        }
        let rows = table.rows();
        table.pass(40 * 86_400);
        table.finish();
        prop_assert_eq!(table.rows(), rows);
        prop_assert!(table.segments.iter().all(|s| s.level > 0 && s.cold));
        // Nothing overlaps any more.
        for partition in partitions(&table.segments) {
            prop_assert!(partition.is_one());
        }
        prop_assert!(unfinished(&table.segments, table.terms()).is_empty());
    }
}
