//! Owns the small integers of the segment format (varints, zigzag) and a reader that checks every bound; does not do I/O.

/// What a parser found wrong; the reader adds the path and the base offset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// Offset of the damage within the parsed bytes.
    pub at: usize,
    /// What an undamaged file has there.
    pub expected: &'static str,
    /// What is there.
    pub found: String,
}

/// Reads forward through bytes that may be anything.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// A flaw at the current position.
    pub(crate) fn flaw(&self, expected: &'static str, found: impl Into<String>) -> Flaw {
        Flaw { at: self.at, expected, found: found.into() }
    }

    pub(crate) fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Flaw> {
        let rest = &self.bytes[self.at..];
        if rest.len() < count {
            return Err(self.flaw(what, format!("{} of {count} bytes", rest.len())));
        }
        self.at += count;
        Ok(&rest[..count])
    }

    /// How many bytes were read.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn byte(&mut self, what: &'static str) -> Result<u8, Flaw> {
        Ok(self.take(1, what)?[0])
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, Flaw> {
        self.take(2, what).map(|b| u16::from_le_bytes([b[0], b[1]]))
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Flaw> {
        self.take(4, what).map(|b| u32_at(b, 0))
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, Flaw> {
        self.take(8, what).map(|b| u64_at(b, 0))
    }

    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64, Flaw> {
        self.u64(what).map(|v| v as i64)
    }

    pub(crate) fn varint(&mut self, what: &'static str) -> Result<u64, Flaw> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Flaw { at: start, expected: what, found: "a varint beyond 64 bits".into() })
    }

    pub(crate) fn zigzag(&mut self, what: &'static str) -> Result<i64, Flaw> {
        self.varint(what).map(unzigzag)
    }

    /// Fails unless everything was read.
    pub(crate) fn end(&self, what: &'static str) -> Result<(), Flaw> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            left => Err(self.flaw(what, format!("{left} left-over bytes"))),
        }
    }
}

/// The `u32` at `at`; the caller has checked the bound.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// The `u64` at `at`; the caller has checked the bound.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Appends `value`, seven bits a byte, lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed value so that small magnitudes are short.
pub(crate) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, zigzag(value));
}

/// How many bytes [`put_varint`] writes.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_know_their_length() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value), "{value}");
                let mut cursor = Cursor::new(&out);
                assert_eq!(cursor.varint("value"), Ok(value));
                assert_eq!(cursor.end("end"), Ok(()));
                assert_eq!(unzigzag(zigzag(value as i64)), value as i64);
            }
        }
    }

    #[test]
    fn varints_beyond_64_bits_and_cut_ones_are_refused() {
        assert!(Cursor::new(&[0xff; 10]).varint("value").is_err());
        assert!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).varint("value").is_err());
        assert!(Cursor::new(&[0x80]).varint("value").is_err());
        assert!(Cursor::new(&[]).varint("value").is_err());
    }
}
