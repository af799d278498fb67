//! Owns the times at which a source's rows are gone; does not know why.

use std::sync::Arc;

/// Times at which rows of a source are not there for readers. Empty for nearly every source, and costs nothing then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask(Option<Arc<[(i64, i64)]>>);

impl Mask {
    /// Covers all `spans`, first and last time inclusive, in any order.
    pub fn new(mut spans: Vec<(i64, i64)>) -> Self {
        spans.retain(|(first, last)| first <= last);
        spans.sort_unstable();
        // Spans that touch become one, so that what is left between two of them is never empty.
        spans.dedup_by(|next, before| {
            let touches = before.1 == i64::MAX || next.0 <= before.1 + 1;
            if touches {
                before.1 = before.1.max(next.1);
            }
            touches
        });
        Self((!spans.is_empty()).then(|| spans.into()))
    }

    /// Whether nothing is gone.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the row at `time` is gone.
    pub fn covers(&self, time: i64) -> bool {
        let at = self.spans().partition_point(|(_, last)| *last < time);
        self.spans().get(at).is_some_and(|(first, _)| *first <= time)
    }

    /// Whether some time of `first..=last` is gone.
    pub fn touches(&self, first: i64, last: i64) -> bool {
        let at = self.spans().partition_point(|(_, end)| *end < first);
        self.spans().get(at).is_some_and(|(start, _)| *start <= last)
    }

    /// What is left of `first..=last`, in time order.
    pub fn left_of(&self, first: i64, last: i64) -> impl Iterator<Item = (i64, i64)> + '_ {
        let mut spans = self.spans()[self.spans().partition_point(|(_, end)| *end < first)..].iter();
        let mut next = Some(first);
        std::iter::from_fn(move || {
            loop {
                let from = next.filter(|from| *from <= last)?;
                match spans.next() {
                    Some((start, end)) if *start <= last => {
                        next = end.checked_add(1);
                        if from < *start {
                            return Some((from, start - 1));
                        }
                    }
                    _ => {
                        next = None;
                        return Some((from, last));
                    }
                }
            }
        })
    }

    fn spans(&self) -> &[(i64, i64)] {
        self.0.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_of_time_can_be_gone() {
        let mask = Mask::new(vec![(i64::MAX, i64::MAX), (i64::MIN, -1), (3, i64::MAX - 1)]);
        assert_eq!(mask.left_of(i64::MIN, i64::MAX).collect::<Vec<_>>(), [(0, 2)]);
        assert!(mask.covers(i64::MIN) && mask.covers(i64::MAX) && !mask.covers(0));
        assert_eq!(Mask::new(vec![(i64::MIN, i64::MAX)]).left_of(5, 6).next(), None);
        assert_eq!(Mask::default().left_of(5, 6).collect::<Vec<_>>(), [(5, 6)]);
        assert!(Mask::new(vec![(5, 4)]).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_no_span_has(
            spans in prop::collection::vec((0i64..40, 0i64..8), 0..6),
            range in (0i64..40, 0i64..20),
        ) {
            let spans: Vec<(i64, i64)> = spans.into_iter().map(|(first, len)| (first, first + len)).collect();
            let gone = |time: i64| spans.iter().any(|(first, last)| (*first..=*last).contains(&time));
            let mask = Mask::new(spans.clone());
            let (first, last) = (range.0, range.0 + range.1);
            let left: Vec<(i64, i64)> = mask.left_of(first, last).collect();
            for time in first..=last {
                prop_assert_eq!(mask.covers(time), gone(time));
                prop_assert_eq!(mask.touches(first, time), (first..=time).any(gone));
                prop_assert_eq!(left.iter().any(|(a, b)| (*a..=*b).contains(&time)), !gone(time), "{}", time);
            }
            prop_assert!(left.iter().all(|(a, b)| first <= *a && a <= b && *b <= last));
        }
    }
}
