//! Owns the promises of the codecs: bytes that are no column are refused, columns come back to the bit.

use tidewell_codec::{
    BatchLimits, Bitmap, Column, FieldType, Text, Tier, Values, decode_batch, decode_column, decode_narrow,
    decode_times, encode_batch, encode_column, encode_times, peek_batch,
};

use crate::input::Input;

const TIERS: [Tier; 3] = [Tier::Plain, Tier::Hot, Tier::Cold];
const TYPES: [FieldType; 4] = [FieldType::F64, FieldType::I64, FieldType::Bool, FieldType::Utf8];
/// A node's limits, but for fewer rows: a batch of the most rows takes too long to try thousands a second.
const LIMITS: BatchLimits = BatchLimits {
    payload: 1 << 20,
    rows: 2_048,
    devices: 256,
    device_bytes: 16 << 10,
    fields: 64,
    cells: 16 << 10,
    decoded: 4 << 20,
};

/// A type, a number of rows, and what may be a chunk of them.
///
/// # Panics
/// When two decoders disagree, or what was decoded does not come back from its own encoding.
pub fn column(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.u8();
    let rows = usize::from(input.u16() % 8_193);
    let chunk = input.rest();
    let field_type = TYPES[usize::from(choice % 4)];
    if choice & 0x80 != 0 {
        if let Ok(times) = decode_times(chunk, rows) {
            assert_eq!(times.len(), rows, "as many times as were asked for");
            times_come_back(&times);
        }
        return;
    }
    let wide = decode_column(chunk, field_type, rows);
    let narrow = decode_narrow(chunk, field_type, rows);
    match (&wide, &narrow) {
        (Ok(wide), Ok(narrow)) => {
            assert_eq!((wide.len(), narrow.len()), (rows, rows), "as many rows as were asked for");
            let mut widened = Column::new(field_type);
            narrow.extend_into(0..rows, &mut widened);
            assert!(same_column(wide, &widened), "narrow and wide columns of one chunk differ");
        }
        (Err(_), Err(_)) => {}
        (wide, narrow) => panic!("one decoder takes what the other refuses: {:?}, {:?}", wide.is_ok(), narrow.is_ok()),
    }
    if let Ok(column) = wide {
        for tier in TIERS {
            comes_back(&column, 0..rows, tier);
        }
    }
}

/// A column made of the input's bytes, and the rows of it to encode.
///
/// # Panics
/// When it does not come back.
pub fn column_round_trip(data: &[u8]) {
    let mut input = Input::new(data);
    let (choice, start, shape) = (input.u8(), usize::from(input.u8()), input.u8());
    let field_type = TYPES[usize::from(choice % 4)];
    let column = arbitrary_column(field_type, shape, &mut input);
    let rows = start.min(column.len())..column.len();
    for tier in TIERS {
        comes_back(&column, rows.clone(), tier);
    }
    if let Values::I64(times) = &column.values {
        times_come_back(times);
    }
}

/// What may be the payload of a batch.
///
/// # Panics
/// When a batch that was taken breaks the limits, or does not come back.
pub fn batch(data: &[u8]) {
    let head = peek_batch(data, &LIMITS).map(|head| (head.table.to_owned(), head.rows));
    let Ok(batch) = decode_batch(data, &LIMITS) else { return };
    batch.check(&LIMITS).expect("a batch that was taken is within the limits");
    // One column may pass the bound before it is seen.
    let bound = LIMITS.decoded + LIMITS.rows * 2_048 + LIMITS.device_bytes + LIMITS.rows * 8 + LIMITS.devices * 8;
    assert!(batch.memory_bytes() <= bound, "{} bytes of memory", batch.memory_bytes());
    assert_eq!(head, Ok((batch.table.clone(), batch.rows())), "the head of a batch tells what it holds");
    for tier in TIERS {
        let mut bytes = Vec::new();
        encode_batch(&batch, tier, &mut bytes);
        let again = decode_batch(&bytes, &BatchLimits { payload: usize::MAX, ..LIMITS });
        let again = again.unwrap_or_else(|error| panic!("its own encoding in tier {tier:?}: {error}"));
        assert_eq!((&again.table, &again.devices, &again.times), (&batch.table, &batch.devices, &batch.times));
        assert_eq!(again.fields.len(), batch.fields.len());
        for (a, b) in again.fields.iter().zip(&batch.fields) {
            assert!(a.name == b.name && same_column(&a.column, &b.column), "field {} in tier {tier:?}", a.name);
        }
    }
}

fn comes_back(column: &Column, rows: std::ops::Range<usize>, tier: Tier) {
    let mut chunk = Vec::new();
    encode_column(column, rows.clone(), tier, &mut chunk);
    let mut expected = Column::new(column.field_type());
    expected.extend_from(column, rows.clone());
    let wide = decode_column(&chunk, column.field_type(), rows.len());
    let wide = wide.unwrap_or_else(|error| panic!("a column's own chunk in tier {tier:?}: {error}"));
    assert!(same_column(&expected, &wide), "a column changed in tier {tier:?}");
    let narrow = decode_narrow(&chunk, column.field_type(), rows.len());
    let narrow = narrow.unwrap_or_else(|error| panic!("a column's own chunk, narrow, in tier {tier:?}: {error}"));
    let mut widened = Column::new(column.field_type());
    narrow.extend_into(0..rows.len(), &mut widened);
    assert!(same_column(&expected, &widened), "a narrow column changed in tier {tier:?}");
}

fn times_come_back(times: &[i64]) {
    for tier in TIERS {
        let mut chunk = Vec::new();
        encode_times(times, tier, &mut chunk);
        assert_eq!(decode_times(&chunk, times.len()).as_deref(), Ok(times), "times in tier {tier:?}");
    }
}

/// Equal to the bit where there are values; what lies under a null does not count.
pub fn same_column(a: &Column, b: &Column) -> bool {
    let same = |at: usize| {
        a.is_valid(at) == b.is_valid(at)
            && (!a.is_valid(at)
                || match (&a.values, &b.values) {
                    (Values::F64(a), Values::F64(b)) => a[at].to_bits() == b[at].to_bits(),
                    (Values::I64(a), Values::I64(b)) => a[at] == b[at],
                    (Values::Bool(a), Values::Bool(b)) => a.get(at) == b.get(at),
                    (Values::Utf8(a), Values::Utf8(b)) => a.get(at) == b.get(at),
                    _ => false,
                })
    };
    a.field_type() == b.field_type() && a.len() == b.len() && (0..a.len()).all(same)
}

/// Values whose shape is one of those that the codecs look for, with some rows null.
fn arbitrary_column(field_type: FieldType, shape: u8, input: &mut Input<'_>) -> Column {
    let nulls = shape & 0x10 != 0;
    let repeat = if shape & 0x20 != 0 { 60 } else { 1 };
    let mut values = Column::new(field_type).values;
    let mut valid = Vec::new();
    let mut before = 0i64;
    while !input.is_empty() && valid.len() < 1_200 {
        let number = integer(shape & 3, &mut before, input);
        let is_valid = !nulls || !input.u8().is_multiple_of(3);
        for _ in 0..repeat {
            valid.push(is_valid);
            match &mut values {
                Values::F64(values) => values.push(real(shape >> 2 & 3, number)),
                Values::I64(values) => values.push(number),
                Values::Bool(values) => values.push(number & 1 == 1),
                Values::Utf8(values) => push_text(values, shape, number, input),
            }
        }
    }
    let validity = nulls.then(|| {
        let mut bits = Bitmap::with_capacity(valid.len());
        valid.iter().for_each(|valid| bits.push(*valid));
        bits
    });
    let mut column = Column { values, validity };
    column.normalise();
    column
}

fn integer(shape: u8, before: &mut i64, input: &mut Input<'_>) -> i64 {
    match shape {
        0 => input.u64() as i64,
        1 => i64::from(input.u8()) - 100,
        2 => i64::from(input.u16()) * 1_000_000,
        _ => {
            *before = before.wrapping_add(1_000_000_000 + i64::from(input.u8() as i8));
            *before
        }
    }
}

fn real(shape: u8, number: i64) -> f64 {
    match shape {
        0 => f64::from_bits(number as u64),
        1 => number as f64 / 100.0,
        2 => f64::from(number as f32) / 7.0,
        _ => f64::from(f32::from_bits(number as u32)),
    }
}

fn push_text(values: &mut Text, shape: u8, number: i64, input: &mut Input<'_>) {
    if shape & 1 == 0 {
        values.push(&format!("unit {}", number % 50));
    } else {
        values.push(&String::from_utf8_lossy(input.take((number & 31) as usize)));
    }
}
