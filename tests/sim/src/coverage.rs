//! Owns what a run went through: so that "it ran" means something.

use std::collections::BTreeMap;

/// What the node was doing at its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// A write of the log.
    Append,
    /// A sync of the log.
    Sync,
    /// The beginning of a log file.
    Rotate,
    /// Log files that are given up.
    Release,
    /// The files of a flush.
    Seal,
    /// The manifest.
    ManifestEdit,
    /// The files of a merge.
    Merge,
    /// Files that retention, merges or a drop let go of.
    Remove,
    /// Opening the directory.
    Open,
    /// A delete.
    Delete,
    /// A change of tables.
    Tables,
    /// Retention.
    Retention,
    /// While a backup was being copied.
    Backup,
    /// Between two operations.
    Idle,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Append,
        Self::Sync,
        Self::Rotate,
        Self::Release,
        Self::Seal,
        Self::ManifestEdit,
        Self::Merge,
        Self::Remove,
        Self::Open,
        Self::Delete,
        Self::Tables,
        Self::Retention,
        Self::Backup,
        Self::Idle,
    ];
}

/// Counters of runs; those of several runs add up.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Deaths of the node, by what it was doing.
    pub crashes: BTreeMap<Phase, u64>,
    /// Failed operations that it lived on with, by what it was doing.
    pub faults: BTreeMap<Phase, u64>,
    /// Everything else that is worth counting.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// Counts `what` once more.
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts `what` so many times more.
    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.counts.entry(what).or_default() += times;
    }

    /// Adds what another run counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in [(&mut self.crashes, &other.crashes), (&mut self.faults, &other.faults)] {
            theirs.iter().for_each(|(phase, count)| *mine.entry(*phase).or_default() += count);
        }
        other.counts.iter().for_each(|(what, count)| self.add(what, *count));
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:<16}{:>10}{:>10}", "phase", "crashes", "faults")?;
        for phase in Phase::ALL {
            let of = |map: &BTreeMap<Phase, u64>| map.get(&phase).copied().unwrap_or(0);
            writeln!(f, "{:<16}{:>10}{:>10}", format!("{phase:?}"), of(&self.crashes), of(&self.faults))?;
        }
        let counts: Vec<String> = self.counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
        write!(f, "{}", counts.join(", "))
    }
}
