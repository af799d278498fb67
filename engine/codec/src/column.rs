//! Owns columns in memory: values, validity and text in Arrow's layout; does not know bytes on disk.

use std::ops::Range;

/// The type of a field. The discriminants are the bytes on disk and on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FieldType {
    /// IEEE 754 double.
    F64 = 1,
    /// Signed 64-bit integer.
    I64 = 2,
    /// True or false.
    Bool = 3,
    /// UTF-8 text.
    Utf8 = 4,
}

impl FieldType {
    /// The type that `byte` stands for on disk and on the wire.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::F64,
            2 => Self::I64,
            3 => Self::Bool,
            4 => Self::Utf8,
            _ => return None,
        })
    }

    /// The name used in messages and in schemas: `f64`, `i64`, `bool`, `utf8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::I64 => "i64",
            Self::Bool => "bool",
            Self::Utf8 => "utf8",
        }
    }
}

impl std::fmt::Display for FieldType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A packed sequence of bits, least significant first, as Arrow lays them out.
///
/// Bits past `len` in the last byte are zero, so that equal bitmaps have equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    bytes: Vec<u8>,
    len: usize,
}

impl Bitmap {
    /// An empty bitmap with room for `bits`.
    pub fn with_capacity(bits: usize) -> Self {
        Self { bytes: Vec::with_capacity(bits.div_ceil(8)), len: 0 }
    }

    /// `len` bits, all `value`.
    pub fn filled(len: usize, value: bool) -> Self {
        let mut bitmap = Self { bytes: vec![if value { 0xff } else { 0 }; len.div_ceil(8)], len };
        bitmap.clear_tail();
        bitmap
    }

    /// Takes packed bytes; `None` when `bytes` is not exactly as long as `len` bits need.
    pub fn from_bytes(bytes: Vec<u8>, len: usize) -> Option<Self> {
        if bytes.len() != len.div_ceil(8) {
            return None;
        }
        let mut bitmap = Self { bytes, len };
        bitmap.clear_tail();
        Some(bitmap)
    }

    fn clear_tail(&mut self) {
        if !self.len.is_multiple_of(8)
            && let Some(last) = self.bytes.last_mut()
        {
            *last &= (1 << (self.len % 8)) - 1;
        }
    }

    /// Number of bits.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no bit.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The packed bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The packed bytes, taken.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bit `index`.
    #[inline]
    pub fn get(&self, index: usize) -> bool {
        self.bytes[index / 8] >> (index % 8) & 1 == 1
    }

    /// Sets bit `index` to `value`.
    #[inline]
    pub fn set(&mut self, index: usize, value: bool) {
        assert!(index < self.len, "bit {index} of {}", self.len);
        let mask = 1u8 << (index % 8);
        if value {
            self.bytes[index / 8] |= mask;
        } else {
            self.bytes[index / 8] &= !mask;
        }
    }

    /// Appends one bit.
    #[inline]
    pub fn push(&mut self, value: bool) {
        if self.len.is_multiple_of(8) {
            self.bytes.push(0);
        }
        if value {
            let at = self.len / 8;
            self.bytes[at] |= 1 << (self.len % 8);
        }
        self.len += 1;
    }

    /// Appends `count` times `value`.
    pub fn extend_filled(&mut self, count: usize, value: bool) {
        let mut left = count;
        while left > 0 && !self.len.is_multiple_of(8) {
            self.push(value);
            left -= 1;
        }
        self.bytes.resize(self.bytes.len() + left.div_ceil(8), if value { 0xff } else { 0 });
        self.len += left;
        self.clear_tail();
    }

    /// Appends the bits `range` of `other`.
    pub fn extend_from(&mut self, other: &Bitmap, range: Range<usize>) {
        if self.len.is_multiple_of(8) && range.start.is_multiple_of(8) {
            let count = range.len();
            self.bytes.extend_from_slice(&other.bytes[range.start / 8..range.end.div_ceil(8)]);
            self.len += count;
            self.clear_tail();
        } else {
            for index in range {
                self.push(other.get(index));
            }
        }
    }

    /// How many bits are set.
    pub fn count_ones(&self) -> usize {
        let mut chunks = self.bytes.chunks_exact(8);
        let words: u32 = chunks
            .by_ref()
            .map(|c| u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]).count_ones())
            .sum();
        let rest: u32 = chunks.remainder().iter().map(|b| b.count_ones()).sum();
        (words + rest) as usize
    }

    /// The bits in order.
    pub fn iter(&self) -> impl Iterator<Item = bool> + '_ {
        (0..self.len).map(|index| self.get(index))
    }

    /// Forgets all bits, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.len = 0;
    }
}

impl FromIterator<bool> for Bitmap {
    fn from_iter<T: IntoIterator<Item = bool>>(iter: T) -> Self {
        let iter = iter.into_iter();
        let mut bitmap = Self::with_capacity(iter.size_hint().0);
        iter.for_each(|bit| bitmap.push(bit));
        bitmap
    }
}

/// Strings one after the other: text `i` is `bytes[offsets[i]..offsets[i + 1]]`, as Arrow lays them out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

impl Default for Text {
    fn default() -> Self {
        Self { offsets: vec![0], bytes: Vec::new() }
    }
}

impl Text {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no string.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// String `index`.
    pub fn get(&self, index: usize) -> &str {
        let range = self.offsets[index] as usize..self.offsets[index + 1] as usize;
        // Only `push` and checked constructors fill `bytes`, so this cannot fail for our own columns.
        std::str::from_utf8(&self.bytes[range]).unwrap_or_default()
    }

    /// Bytes of string `index`.
    #[inline]
    pub fn get_bytes(&self, index: usize) -> &[u8] {
        &self.bytes[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }

    /// Appends one string. The whole column must stay under 2 GiB; callers bound batches and blocks far below.
    pub fn push(&mut self, text: &str) {
        self.push_bytes(text.as_bytes());
    }

    /// Appends bytes that are known to be UTF-8.
    pub(crate) fn push_bytes(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        let end = i32::try_from(self.bytes.len()).expect("a text column is bounded far below 2 GiB");
        self.offsets.push(end);
    }

    /// Appends the strings `range` of `other`.
    pub fn extend_from(&mut self, other: &Text, range: Range<usize>) {
        let (from, to) = (other.offsets[range.start], other.offsets[range.end]);
        let base = i32::try_from(self.bytes.len()).expect("a text column is bounded far below 2 GiB");
        self.bytes.extend_from_slice(&other.bytes[from as usize..to as usize]);
        assert!(i32::try_from(self.bytes.len()).is_ok(), "a text column is bounded far below 2 GiB");
        self.offsets.extend(other.offsets[range.start + 1..=range.end].iter().map(|o| o - from + base));
    }

    /// Takes offsets and bytes; `None` unless offsets start at 0, never fall, end at the length, and each string is UTF-8.
    pub fn from_parts(offsets: Vec<i32>, bytes: Vec<u8>) -> Option<Self> {
        let end = *offsets.last()?;
        if offsets[0] != 0 || usize::try_from(end).ok()? != bytes.len() || offsets.windows(2).any(|w| w[0] > w[1]) {
            return None;
        }
        let whole = std::str::from_utf8(&bytes).ok()?;
        if offsets.iter().any(|&o| !whole.is_char_boundary(o as usize)) {
            return None;
        }
        Some(Self { offsets, bytes })
    }

    /// Appends strings of the given lengths that lie one after the other; `None`, and nothing appended, unless the lengths
    /// are those of `bytes`, each string is UTF-8 and the column stays under 2 GiB.
    pub(crate) fn extend_checked(&mut self, lengths: &[i64], bytes: &[u8]) -> Option<()> {
        let whole = std::str::from_utf8(bytes).ok()?;
        let base = self.bytes.len();
        i32::try_from(base.checked_add(bytes.len())?).ok()?;
        let count = self.offsets.len();
        let mut end = 0usize;
        for &length in lengths {
            end = usize::try_from(length).ok().and_then(|length| end.checked_add(length)).unwrap_or(usize::MAX);
            if !whole.is_char_boundary(end) {
                self.offsets.truncate(count);
                return None;
            }
            self.offsets.push((base + end) as i32);
        }
        if end != bytes.len() {
            self.offsets.truncate(count);
            return None;
        }
        self.bytes.extend_from_slice(bytes);
        Some(())
    }

    /// Offsets and bytes, taken (Arrow's two buffers).
    pub fn into_parts(self) -> (Vec<i32>, Vec<u8>) {
        (self.offsets, self.bytes)
    }

    /// The strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Bytes of all strings together.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets all strings, keeps the memory.
    pub fn clear(&mut self) {
        self.offsets.truncate(1);
        self.bytes.clear();
    }
}

/// The values of one column; a null slot holds 0, false or the empty string.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Doubles.
    F64(Vec<f64>),
    /// Integers.
    I64(Vec<i64>),
    /// Booleans, packed.
    Bool(Bitmap),
    /// Text.
    Utf8(Text),
}

/// One column: values and, when at least one is null, which of them are valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// One slot a row, null slots included.
    pub values: Values,
    /// Bit set = the row has a value. `None` = every row has one.
    pub validity: Option<Bitmap>,
}

impl Column {
    /// An empty column of `field_type`.
    pub fn new(field_type: FieldType) -> Self {
        let values = match field_type {
            FieldType::F64 => Values::F64(Vec::new()),
            FieldType::I64 => Values::I64(Vec::new()),
            FieldType::Bool => Values::Bool(Bitmap::default()),
            FieldType::Utf8 => Values::Utf8(Text::default()),
        };
        Self { values, validity: None }
    }

    /// `rows` nulls of `field_type`.
    pub fn nulls(field_type: FieldType, rows: usize) -> Self {
        let mut column = Self::new(field_type);
        column.extend_nulls(rows);
        column
    }

    /// The type of its values.
    pub fn field_type(&self) -> FieldType {
        match self.values {
            Values::F64(_) => FieldType::F64,
            Values::I64(_) => FieldType::I64,
            Values::Bool(_) => FieldType::Bool,
            Values::Utf8(_) => FieldType::Utf8,
        }
    }

    /// Number of rows, nulls included.
    pub fn len(&self) -> usize {
        match &self.values {
            Values::F64(v) => v.len(),
            Values::I64(v) => v.len(),
            Values::Bool(v) => v.len(),
            Values::Utf8(v) => v.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether row `index` has a value.
    #[inline]
    pub fn is_valid(&self, index: usize) -> bool {
        self.validity.as_ref().is_none_or(|v| v.get(index))
    }

    /// How many rows are null.
    pub fn null_count(&self) -> usize {
        self.validity.as_ref().map_or(0, |v| v.len() - v.count_ones())
    }

    /// Appends `count` nulls.
    pub fn extend_nulls(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let len = self.len();
        self.validity.get_or_insert_with(|| Bitmap::filled(len, true)).extend_filled(count, false);
        match &mut self.values {
            Values::F64(v) => v.resize(len + count, 0.0),
            Values::I64(v) => v.resize(len + count, 0),
            Values::Bool(v) => v.extend_filled(count, false),
            Values::Utf8(v) => (0..count).for_each(|_| v.push("")),
        }
    }

    /// Appends the rows `range` of `other`, which must have the same type.
    ///
    /// # Panics
    /// When the types differ: columns are matched against the table's schema before.
    pub fn extend_from(&mut self, other: &Column, range: Range<usize>) {
        let (len, count) = (self.len(), range.len());
        match (&mut self.validity, &other.validity) {
            (None, None) => {}
            (Some(own), None) => own.extend_filled(count, true),
            (own, Some(theirs)) => {
                own.get_or_insert_with(|| Bitmap::filled(len, true)).extend_from(theirs, range.clone());
            }
        }
        match (&mut self.values, &other.values) {
            (Values::F64(a), Values::F64(b)) => a.extend_from_slice(&b[range]),
            (Values::I64(a), Values::I64(b)) => a.extend_from_slice(&b[range]),
            (Values::Bool(a), Values::Bool(b)) => a.extend_from(b, range),
            (Values::Utf8(a), Values::Utf8(b)) => a.extend_from(b, range),
            (a, b) => {
                panic!("a {:?} column cannot take rows of {:?}", std::mem::discriminant(a), std::mem::discriminant(b))
            }
        }
    }

    /// Bytes of memory that the rows take.
    pub fn memory_bytes(&self) -> usize {
        let values = match &self.values {
            Values::F64(v) => v.len() * 8,
            Values::I64(v) => v.len() * 8,
            Values::Bool(v) => v.as_bytes().len(),
            Values::Utf8(v) => v.byte_len() + v.len() * 4,
        };
        values + self.validity.as_ref().map_or(0, |v| v.as_bytes().len())
    }

    /// Drops a validity bitmap that marks no null, so that equal columns compare equal.
    pub fn normalise(&mut self) {
        if self.null_count() == 0 {
            self.validity = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_append_at_any_alignment() {
        let source: Bitmap = (0..77).map(|i| i % 3 == 0).collect();
        for start in 0..20 {
            for prefix in 0..10 {
                let mut bitmap = Bitmap::filled(prefix, true);
                bitmap.extend_from(&source, start..70);
                bitmap.extend_filled(9, true);
                let expected: Vec<bool> = std::iter::repeat_n(true, prefix)
                    .chain((start..70).map(|i| i % 3 == 0))
                    .chain(std::iter::repeat_n(true, 9))
                    .collect();
                assert_eq!(bitmap.iter().collect::<Vec<_>>(), expected);
                assert_eq!(bitmap.count_ones(), expected.iter().filter(|b| **b).count());
            }
        }
    }

    #[test]
    fn nulls_and_rows_mix() {
        let mut a = Column { values: Values::Utf8(Text::default()), validity: None };
        let mut b = Column::new(FieldType::Utf8);
        b.extend_nulls(1);
        if let Values::Utf8(text) = &mut b.values {
            text.push("grün");
        }
        b.validity.as_mut().expect("has nulls").push(true);
        a.extend_from(&b, 1..2);
        assert_eq!(a.validity.as_ref().map(|v| v.iter().collect::<Vec<_>>()), Some(vec![true]));
        a.extend_from(&b, 0..2);
        assert_eq!((a.is_valid(0), a.is_valid(1), a.is_valid(2)), (true, false, true));
        assert_eq!(a.null_count(), 1);
        a = Column::nulls(FieldType::F64, 3);
        assert_eq!((a.len(), a.null_count()), (3, 3));
    }

    #[test]
    fn checked_text_is_appended_whole_or_not_at_all() {
        let mut text = Text::default();
        text.push("a");
        assert_eq!(text.extend_checked(&[2, 0, 1], "üb".as_bytes()), Some(()));
        assert_eq!(text.iter().collect::<Vec<_>>(), ["a", "ü", "", "b"]);
        for lengths in [&[1, 2][..], &[2], &[2, 2], &[-1, 4], &[3, i64::MAX]] {
            assert_eq!(text.extend_checked(lengths, "üb".as_bytes()), None, "{lengths:?}");
        }
        assert_eq!(text.extend_checked(&[1], &[0xff]), None);
        assert_eq!((text.len(), text.byte_len()), (4, 4));
    }

    #[test]
    fn text_parts_are_checked() {
        assert!(Text::from_parts(vec![0, 1], "ü".as_bytes().to_vec()).is_none());
        assert!(Text::from_parts(vec![0, 1, 2], "ü".as_bytes().to_vec()).is_none());
        assert!(Text::from_parts(vec![0, 2, 2], "ü".as_bytes().to_vec()).is_some());
        assert!(Text::from_parts(vec![], vec![]).is_none());
        assert!(Text::from_parts(vec![0, -1, 2], b"ab".to_vec()).is_none());
    }
}
