//! Owns what zone maps alone tell about a condition; does not read values.

use tidewell_engine::{FieldStats, Scalar};

use super::{Node, Operator, Predicate};

/// What is known of a block's rows before they are read. "Can" bounds from above, "some" from below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// A row may match.
    pub can_match: bool,
    /// A row may fail.
    pub can_fail: bool,
    /// A row may be unknown.
    pub can_be_unknown: bool,
    /// At least one row matches.
    pub some_match: bool,
    /// At least one row fails.
    pub some_fail: bool,
}

impl Verdict {
    /// Nothing is known.
    pub const OPEN: Self =
        Self { can_match: true, can_fail: true, can_be_unknown: true, some_match: false, some_fail: false };

    /// Every row matches.
    pub fn all_match(self) -> bool {
        self.can_match && !self.can_fail && !self.can_be_unknown
    }

    fn all_fail(self) -> bool {
        self.can_fail && !self.can_match && !self.can_be_unknown
    }

    fn not(self) -> Self {
        Self {
            can_match: self.can_fail,
            can_fail: self.can_match,
            some_match: self.some_fail,
            some_fail: self.some_match,
            ..self
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            can_match: self.can_match && other.can_match,
            // One that fails is enough, whatever the other says of that row.
            can_fail: self.can_fail || other.can_fail,
            can_be_unknown: (self.can_be_unknown && !other.all_fail()) || (other.can_be_unknown && !self.all_fail()),
            some_match: (self.some_match && other.all_match()) || (other.some_match && self.all_match()),
            some_fail: self.some_fail || other.some_fail,
        }
    }
}

impl Predicate {
    /// Judges a block by its statistics; `stats` takes a slot.
    pub fn verdict(&self, stats: impl Fn(usize) -> Option<FieldStats>) -> Verdict {
        self.root.verdict(&stats)
    }
}

impl Node {
    fn verdict(&self, stats: &impl Fn(usize) -> Option<FieldStats>) -> Verdict {
        match self {
            Self::And(nodes) => nodes.iter().map(|n| n.verdict(stats)).reduce(Verdict::and).unwrap_or(Verdict::OPEN),
            // By De Morgan's law, which holds with three outcomes too.
            Self::Or(nodes) => {
                nodes.iter().map(|n| n.verdict(stats).not()).reduce(Verdict::and).map_or(Verdict::OPEN, Verdict::not)
            }
            Self::Not(node) => node.verdict(stats).not(),
            Self::IsNull { slot } => stats(*slot).map_or(Verdict::OPEN, |s| Verdict {
                can_match: s.valid < s.rows,
                can_fail: s.valid > 0,
                can_be_unknown: false,
                some_match: s.valid < s.rows,
                some_fail: s.valid > 0,
            }),
            Self::Never { slot }
            | Self::F64 { slot, .. }
            | Self::F64In { slot, .. }
            | Self::I64 { slot, .. }
            | Self::I64In { slot, .. }
            | Self::Bool { slot, .. }
            | Self::Text { slot, .. }
            | Self::TextIn { slot, .. } => stats(*slot).map_or(Verdict::OPEN, |s| self.compare_bounds(&s)),
        }
    }

    fn compare_bounds(&self, stats: &FieldStats) -> Verdict {
        let comparable = stats.valid > stats.nan;
        // `each`: every value between the bounds passes. `none`: no value between them passes. `at_bound`: a bound, which
        // is the value of some row, passes or does not.
        let bounds =
            if comparable { self.bounds(stats) } else { Some(Bounds { each: true, none: true, ..Bounds::default() }) };
        let Some(bounds) = bounds else {
            return Verdict {
                can_match: comparable,
                can_fail: stats.valid > 0,
                can_be_unknown: stats.valid < stats.rows,
                some_match: false,
                // A test that no value passes, and a NaN, need no bounds.
                some_fail: stats.nan > 0,
            };
        };
        Verdict {
            can_match: comparable && !bounds.none,
            // NaN passes no comparison.
            can_fail: stats.nan > 0 || (comparable && !bounds.each),
            can_be_unknown: stats.valid < stats.rows,
            some_match: comparable && bounds.bound_passes,
            some_fail: stats.nan > 0 || (comparable && bounds.bound_fails),
        }
    }

    /// Tests the smallest and the largest value; `None` when the statistics do not carry them.
    fn bounds(&self, stats: &FieldStats) -> Option<Bounds> {
        Some(match (self, stats.min, stats.max) {
            (Self::Never { .. }, ..) => Bounds { each: false, none: true, bound_passes: false, bound_fails: true },
            (Self::F64 { operator, value, .. }, Some(Scalar::F64(min)), Some(Scalar::F64(max))) => {
                Bounds::of(*operator, min, max, *value)
            }
            (Self::F64In { values, .. }, Some(Scalar::F64(min)), Some(Scalar::F64(max))) => {
                Bounds::of_list(values, min, max)
            }
            (Self::I64 { low, high, inside, .. }, Some(Scalar::I64(min)), Some(Scalar::I64(max))) => {
                let within = |v| (*low..=*high).contains(&v);
                let bounds = Bounds {
                    each: within(min) && within(max),
                    none: max < *low || min > *high,
                    bound_passes: within(min) || within(max),
                    bound_fails: !within(min) || !within(max),
                };
                if *inside { bounds } else { bounds.opposite() }
            }
            (Self::I64In { values, .. }, Some(Scalar::I64(min)), Some(Scalar::I64(max))) => {
                Bounds::of_list(values, min, max)
            }
            (Self::Bool { value, .. }, Some(Scalar::Bool(min)), Some(Scalar::Bool(max))) => {
                Bounds::of(Operator::Equal, min, max, *value)
            }
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Default)]
struct Bounds {
    each: bool,
    none: bool,
    bound_passes: bool,
    bound_fails: bool,
}

impl Bounds {
    fn of<T: PartialOrd + Copy>(operator: Operator, min: T, max: T, value: T) -> Self {
        let (low, high) = (operator.holds(min, value), operator.holds(max, value));
        let (each, none) = match operator {
            // Only a block of one value is equal to the literal throughout.
            Operator::Equal => (low && high, value < min || value > max),
            Operator::NotEqual => (value < min || value > max, !low && !high),
            // An order holds on one side of the literal, so the bounds decide.
            _ => (low && high, !low && !high),
        };
        Self { each, none, bound_passes: low || high, bound_fails: !low || !high }
    }

    fn of_list<T: PartialOrd + Copy>(values: &[T], min: T, max: T) -> Self {
        let from = values.partition_point(|&v| v < min);
        let none = values.get(from).is_none_or(|&v| v > max);
        let (low, high) = (values.contains(&min), values.contains(&max));
        Self { each: min == max && low, none, bound_passes: low || high, bound_fails: !low || !high }
    }

    fn opposite(self) -> Self {
        Self { each: self.none, none: self.each, bound_passes: self.bound_fails, bound_fails: self.bound_passes }
    }
}
