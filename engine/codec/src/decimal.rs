//! Owns doubles that are decimals: integers `n` and one number of digits `k` with `value == n / 10^k` to the bit, and the
//! few values that are not; does not compress the integers.
//!
//! IEEE division rounds correctly, so every double that was parsed from a decimal of at most fifteen digits is given back
//! by the division exactly. A multiplication by a rounded `10^-k` would not do that.

/// Most digits behind the point.
pub(crate) const DIGITS_MAX: u8 = 15;

/// `10^k`, all exact as doubles.
const POWERS: [f64; DIGITS_MAX as usize + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// 1.5 * 2^52. Added to a number below 2^51 it leaves the rounded integer in the low bits, which vector units can do;
/// they have no conversion between doubles and 64-bit integers.
const MAGIC: f64 = 6_755_399_441_055_744.0;

/// Integers at or above this magnitude are exceptions; below it `MAGIC` is exact in both directions.
const INTEGER_LIMIT: u64 = 1 << 50;

/// At most one value in this many may be an exception; each one costs more than its eight bytes.
const EXCEPTIONS_ONE_IN: usize = 8;

#[inline]
fn to_integer(value: f64, power: f64) -> (i64, bool) {
    let shifted = value * power + MAGIC;
    let integer = (shifted.to_bits().wrapping_sub(MAGIC.to_bits())) as i64;
    let back = (shifted - MAGIC) / power;
    let small = (integer as u64).wrapping_add(INTEGER_LIMIT) < 2 * INTEGER_LIMIT;
    (integer, small & (back.to_bits() == value.to_bits()))
}

#[inline]
fn to_real(integer: i64, power: f64) -> f64 {
    (f64::from_bits((integer as u64).wrapping_add(MAGIC.to_bits())) - MAGIC) / power
}

/// `10^digits`, exact.
#[inline]
pub(crate) fn power(digits: u8) -> f64 {
    POWERS[usize::from(digits)]
}

/// The number of digits that makes most of the values integers, judged on a sample; `None` when the values are no decimals.
pub(crate) fn choose_digits(values: &[f64], sample: usize) -> Option<u8> {
    let stride = (values.len() / sample).max(1) | 1;
    let mut needing = [0u32; DIGITS_MAX as usize + 1];
    let (mut sampled, mut without) = (0u32, 0u32);
    let mut guess = 0;
    for &value in values.iter().step_by(stride) {
        sampled += 1;
        match digits_of(value, guess) {
            Some(digits) => {
                needing[usize::from(digits)] += 1;
                guess = digits;
            }
            None => without += 1,
        }
        // Every value that is no decimal costs sixteen divisions to find out.
        if without >= 16 && without * 2 > sampled {
            return None;
        }
    }
    let mut best = None;
    let mut outside = without;
    for digits in (0..=DIGITS_MAX).rev() {
        // A digit makes every integer 3.3 bits wider, an exception costs about 80 bits.
        let bits = f64::from(outside) * 80.0 + f64::from(sampled) * f64::from(digits) * 3.32;
        let few = outside as usize * EXCEPTIONS_ONE_IN <= sampled as usize;
        if few && best.is_none_or(|(_, least)| bits < least) {
            best = Some((digits, bits));
        }
        outside += needing[usize::from(digits)];
    }
    best.map(|(digits, _)| digits)
}

/// The fewest digits that give `value` back, looked for from `guess` on.
fn digits_of(value: f64, guess: u8) -> Option<u8> {
    let exact = |digits: u8| {
        let (integer, exact) = to_integer(value, POWERS[usize::from(digits)]);
        exact.then_some(integer)
    };
    let Some(mut integer) = exact(guess) else { return (0..=DIGITS_MAX).find(|digits| exact(*digits).is_some()) };
    let mut digits = guess;
    while digits > 0 && integer % 10 == 0 {
        integer /= 10;
        digits -= 1;
    }
    Some(digits)
}

/// Turns values into integers of `digits` digits. Exceptions get the integer before them and go to `positions` and
/// `exceptions`. False when there are too many, and then the output is of no use.
pub(crate) fn split(
    values: &[f64],
    digits: u8,
    integers: &mut Vec<i64>,
    positions: &mut Vec<i64>,
    exceptions: &mut Vec<f64>,
) -> bool {
    let power = POWERS[usize::from(digits)];
    integers.resize(values.len(), 0);
    let mut inexact = 0u64;
    for (integer, value) in integers.iter_mut().zip(values) {
        let (n, exact) = to_integer(*value, power);
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
        values.iter().map(|value| to_integer(*value, power)).find(|(_, exact)| *exact).map_or(0, |(n, _)| n);
    for (position, (integer, value)) in integers.iter_mut().zip(values).enumerate() {
        if to_integer(*value, power).1 {
            before = *integer;
        } else {
            *integer = before;
            positions.push(position as i64);
            exceptions.push(*value);
        }
    }
    true
}

/// Appends `integer / 10^digits` for each integer.
pub(crate) fn join(integers: &[i64], digits: u8, values: &mut Vec<f64>) {
    let power = POWERS[usize::from(digits)];
    if digits == 0 {
        values.extend(integers.iter().map(|integer| to_real(*integer, 1.0)));
    } else {
        values.extend(integers.iter().map(|integer| to_real(*integer, power)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed_decimals_are_exact_for_all_digits() {
        for digits in 0..=DIGITS_MAX {
            for n in [0i64, 1, 7, 120, 12_345, 999_999_999_999, (1 << 50) - 1, -3, -(1 << 50) + 1] {
                let text = format!("{n}e-{digits}");
                let value: f64 = text.parse().unwrap();
                let (integer, exact) = to_integer(value, POWERS[usize::from(digits)]);
                assert!(exact && integer == n, "{text}");
                let mut fewest = digits;
                let mut rest = n;
                while fewest > 0 && rest % 10 == 0 {
                    (rest, fewest) = (rest / 10, fewest - 1);
                }
                assert_eq!((digits_of(value, 0), digits_of(value, 15)), (Some(fewest), Some(fewest)), "{text}");
                assert_eq!(to_real(n, POWERS[usize::from(digits)]).to_bits(), value.to_bits());
            }
        }
    }

    #[test]
    fn what_is_no_decimal_is_refused() {
        for value in
            [-0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, 5e-324, 0.1 + 0.2, 2f64.powi(51), 1.0 / 3.0]
        {
            assert_eq!(digits_of(value, 3), None, "{value}");
        }
        assert_eq!(digits_of(f64::from_bits(0x7ff0_dead_beef_0001), 0), None);
        assert_eq!(digits_of(0.0, 3), Some(0));
        assert_eq!(digits_of(21.5, 0), Some(1));
    }

    #[test]
    fn few_exceptions_are_kept_apart_and_many_refused() {
        let mut values: Vec<f64> = (0..1_000).map(|i| f64::from(i) / 100.0).collect();
        values[0] = f64::NAN;
        values[500] = -0.0;
        let digits = choose_digits(&values, 96).unwrap();
        assert_eq!(digits, 2);
        let (mut n, mut p, mut e) = (Vec::new(), Vec::new(), Vec::new());
        assert!(split(&values, digits, &mut n, &mut p, &mut e));
        assert_eq!((p, e.len(), n[0], n[500]), (vec![0, 500], 2, 1, 499));
        let noise: Vec<f64> = (1..1_000).map(|i| 1.0 / f64::from(i)).collect();
        assert_eq!(choose_digits(&noise, 96), None);
    }
}
