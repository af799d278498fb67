//! Owns doubles that are integers divided by one number: `value == n / d` to the bit, and the few values that are not; does
//! not compress the integers.
//!
//! `d` is `10^k` for decimals, and `60 * 10^k` for degrees that were made of minutes with `k` digits, as positioning receivers
//! tell them (NMEA 0183). IEEE division rounds correctly, so every double that was parsed from a decimal of at most
//! fifteen digits is given back by the division exactly. A multiplication by a rounded `10^-k` would not do that.

use std::ops::RangeInclusive;

/// A divisor, by its place in [`DIVISORS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Divisor(u8);

/// Divisors of decimals: `10^k` with `k` up to 15.
const DECIMALS: u8 = 16;
/// Divisors of degrees: `60 * 10^k` with `k` up to 7.
const DEGREES: u8 = 8;

/// All exact as doubles.
const DIVISORS: [f64; (DECIMALS + DEGREES) as usize] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, //
    6e1, 6e2, 6e3, 6e4, 6e5, 6e6, 6e7, 6e8,
];

/// Kind byte of a stream of decimals, plus the number of digits.
pub(crate) const DECIMAL_KIND: u8 = 16;
/// The same with exceptions.
pub(crate) const DECIMAL_PATCHED_KIND: u8 = 32;
/// Kind byte of a stream of degrees, plus the number of digits of the minutes.
const DEGREES_KIND: u8 = 48;
/// The same with exceptions.
const DEGREES_PATCHED_KIND: u8 = 56;

impl Divisor {
    /// 1.
    pub(crate) const ONE: Self = Self(0);

    /// The number.
    #[inline]
    pub(crate) fn value(self) -> f64 {
        DIVISORS[usize::from(self.0)]
    }

    /// The kind byte of a stream of such values, with or without exceptions.
    pub(crate) fn kind(self, patched: bool) -> u8 {
        match (self.0.checked_sub(DECIMALS), patched) {
            (None, false) => DECIMAL_KIND + self.0,
            (None, true) => DECIMAL_PATCHED_KIND + self.0,
            (Some(digits), false) => DEGREES_KIND + digits,
            (Some(digits), true) => DEGREES_PATCHED_KIND + digits,
        }
    }

    /// What a kind byte says: the divisor, and whether there are exceptions. `None` for kinds of other streams.
    pub(crate) fn of_kind(kind: u8) -> Option<(Self, bool)> {
        match kind {
            DECIMAL_KIND..DECIMAL_PATCHED_KIND => Some((Self(kind - DECIMAL_KIND), false)),
            DECIMAL_PATCHED_KIND..DEGREES_KIND => Some((Self(kind - DECIMAL_PATCHED_KIND), true)),
            DEGREES_KIND..DEGREES_PATCHED_KIND => Some((Self(DECIMALS + kind - DEGREES_KIND), false)),
            DEGREES_PATCHED_KIND..64 => Some((Self(DECIMALS + kind - DEGREES_PATCHED_KIND), true)),
            _ => None,
        }
    }
}

/// 1.5 * 2^52. Added to a number below 2^51 it leaves the rounded integer in the low bits, which vector units can do;
/// they have no conversion between doubles and 64-bit integers.
const MAGIC: f64 = 6_755_399_441_055_744.0;

/// Integers at or above this magnitude are exceptions; below it `MAGIC` is exact in both directions.
const INTEGER_LIMIT: u64 = 1 << 50;

/// At most one value in this many may be an exception; each one costs more than its eight bytes.
const EXCEPTIONS_ONE_IN: usize = 8;

#[inline]
fn to_integer(value: f64, divisor: f64) -> (i64, bool) {
    let shifted = value * divisor + MAGIC;
    let integer = (shifted.to_bits().wrapping_sub(MAGIC.to_bits())) as i64;
    let back = (shifted - MAGIC) / divisor;
    let small = (integer as u64).wrapping_add(INTEGER_LIMIT) < 2 * INTEGER_LIMIT;
    (integer, small & (back.to_bits() == value.to_bits()))
}

#[inline]
fn to_real(integer: i64, divisor: f64) -> f64 {
    (f64::from_bits((integer as u64).wrapping_add(MAGIC.to_bits())) - MAGIC) / divisor
}

/// The divisor that makes most of the values integers, judged on a sample; `None` when there is none.
pub(crate) fn choose(values: &[f64], sample: usize) -> Option<Divisor> {
    choose_among(values, sample, 0..=DECIMALS - 1)
        .or_else(|| choose_among(values, sample, DECIMALS..=DECIMALS + DEGREES - 1))
}

/// Of divisors that are ten times each other, rising.
fn choose_among(values: &[f64], sample: usize, divisors: RangeInclusive<u8>) -> Option<Divisor> {
    let stride = (values.len() / sample).max(1) | 1;
    let mut needing = [0u32; DIVISORS.len()];
    let (mut sampled, mut without) = (0u32, 0u32);
    let mut guess = *divisors.start();
    for &value in values.iter().step_by(stride) {
        sampled += 1;
        match least_of(value, guess, divisors.clone()) {
            Some(least) => {
                needing[usize::from(least)] += 1;
                guess = least;
            }
            None => without += 1,
        }
        // Every value without a divisor costs as many divisions as there are, to find out.
        if without >= 16 && without * 2 > sampled {
            return None;
        }
    }
    let mut best = None;
    let mut outside = without;
    for at in divisors.rev() {
        // A digit makes every integer 3.3 bits wider, an exception costs about 80 bits.
        let bits = f64::from(outside) * 80.0 + f64::from(sampled) * f64::from(at) * 3.32;
        let few = outside as usize * EXCEPTIONS_ONE_IN <= sampled as usize;
        if few && best.is_none_or(|(_, least)| bits < least) {
            best = Some((at, bits));
        }
        outside += needing[usize::from(at)];
    }
    best.map(|(at, _)| Divisor(at))
}

/// The least divisor that gives `value` back, looked for from `guess` on.
fn least_of(value: f64, guess: u8, mut divisors: RangeInclusive<u8>) -> Option<u8> {
    let exact = |at: u8| {
        let (integer, exact) = to_integer(value, DIVISORS[usize::from(at)]);
        exact.then_some(integer)
    };
    let Some(mut integer) = exact(guess) else { return divisors.find(|at| exact(*at).is_some()) };
    let mut least = guess;
    while least > *divisors.start() && integer % 10 == 0 {
        integer /= 10;
        least -= 1;
    }
    Some(least)
}

/// Turns values into integers, to be divided by `divisor`. Exceptions get the integer before them and go to `positions` and
/// `exceptions`. False when there are too many, and then the output is of no use.
pub(crate) fn split(
    values: &[f64],
    divisor: Divisor,
    integers: &mut Vec<i64>,
    positions: &mut Vec<i64>,
    exceptions: &mut Vec<f64>,
) -> bool {
    let divisor = divisor.value();
    integers.resize(values.len(), 0);
    let mut inexact = 0u64;
    for (integer, value) in integers.iter_mut().zip(values) {
        let (n, exact) = to_integer(*value, divisor);
        *integer = n;
        inexact += u64::from(!exact);
    }
    if inexact == 0 {
        return true;
    }
    if inexact as usize > values.len() / EXCEPTIONS_ONE_IN {
        return false;
    }
    let mut before =
        values.iter().map(|value| to_integer(*value, divisor)).find(|(_, exact)| *exact).map_or(0, |(n, _)| n);
    for (position, (integer, value)) in integers.iter_mut().zip(values).enumerate() {
        if to_integer(*value, divisor).1 {
            before = *integer;
        } else {
            *integer = before;
            positions.push(position as i64);
            exceptions.push(*value);
        }
    }
    true
}

/// Appends `integer / divisor` for each integer.
pub(crate) fn join(integers: &[i64], divisor: Divisor, values: &mut Vec<f64>) {
    if divisor == Divisor::ONE {
        values.extend(integers.iter().map(|integer| to_real(*integer, 1.0)));
    } else {
        let divisor = divisor.value();
        values.extend(integers.iter().map(|integer| to_real(*integer, divisor)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed_decimals_are_exact_for_all_digits() {
        for digits in 0..DECIMALS {
            for n in [0i64, 1, 7, 120, 12_345, 999_999_999_999, (1 << 50) - 1, -3, -(1 << 50) + 1] {
                let text = format!("{n}e-{digits}");
                let value: f64 = text.parse().unwrap();
                let (integer, exact) = to_integer(value, DIVISORS[usize::from(digits)]);
                assert!(exact && integer == n, "{text}");
                let mut fewest = digits;
                let mut rest = n;
                while fewest > 0 && rest % 10 == 0 {
                    (rest, fewest) = (rest / 10, fewest - 1);
                }
                assert_eq!(
                    (least_of(value, 0, 0..=15), least_of(value, 15, 0..=15)),
                    (Some(fewest), Some(fewest)),
                    "{text}"
                );
                assert_eq!(to_real(n, DIVISORS[usize::from(digits)]).to_bits(), value.to_bits());
            }
        }
    }

    #[test]
    fn what_is_no_decimal_is_refused() {
        for value in
            [-0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, 5e-324, 0.1 + 0.2, 2f64.powi(51), 1.0 / 3.0]
        {
            assert_eq!(least_of(value, 3, 0..=15), None, "{value}");
        }
        assert_eq!(least_of(f64::from_bits(0x7ff0_dead_beef_0001), 0, 0..=15), None);
        assert_eq!(least_of(0.0, 3, 0..=15), Some(0));
        assert_eq!(least_of(21.5, 0, 0..=15), Some(1));
    }

    #[test]
    fn few_exceptions_are_kept_apart_and_many_refused() {
        let mut values: Vec<f64> = (0..1_000).map(|i| f64::from(i) / 100.0).collect();
        values[0] = f64::NAN;
        values[500] = -0.0;
        let divisor = choose(&values, 96).unwrap();
        assert_eq!(divisor, Divisor(2));
        let (mut n, mut p, mut e) = (Vec::new(), Vec::new(), Vec::new());
        assert!(split(&values, divisor, &mut n, &mut p, &mut e));
        assert_eq!((p, e.len(), n[0], n[500]), (vec![0, 500], 2, 1, 499));
        let noise: Vec<f64> = (1..1_000).map(|i| 1.0 / f64::from(i)).collect();
        assert_eq!(choose(&noise, 96), None);
    }

    #[test]
    fn degrees_out_of_minutes_are_found() {
        let minutes = |i: u32| f64::from(318_600 + i * 7) / 1e4;
        let values: Vec<f64> = (0..1_000).map(|i| -(72.0 + minutes(i) / 60.0)).collect();
        assert_eq!(choose_among(&values, 96, 0..=DECIMALS - 1), None);
        let divisor = choose(&values, 96).unwrap();
        assert_eq!(divisor.value(), 60e4);
        let (mut n, mut p, mut e) = (Vec::new(), Vec::new(), Vec::new());
        assert!(split(&values, divisor, &mut n, &mut p, &mut e));
        assert!(p.len() < 10, "{} exceptions", p.len());
        assert_eq!(n[1] - n[0], -7);
        let mut back = Vec::new();
        join(&n, divisor, &mut back);
        p.iter().zip(&e).for_each(|(at, value)| back[*at as usize] = *value);
        assert!(back.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    #[test]
    fn kinds_and_divisors_are_the_same_thing() {
        for at in 0..DECIMALS + DEGREES {
            for patched in [false, true] {
                assert_eq!(Divisor::of_kind(Divisor(at).kind(patched)), Some((Divisor(at), patched)));
            }
        }
        let known = (0..=u8::MAX).filter(|kind| Divisor::of_kind(*kind).is_some());
        assert_eq!(known.count(), 2 * usize::from(DECIMALS + DEGREES));
    }
}
