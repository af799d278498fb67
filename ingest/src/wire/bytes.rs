//! Owns bounded reading and writing of frame payloads; does not know frames.

use super::frame::Kind;
use super::reader::FrameError;

/// Reads little-endian fields out of one frame's payload and names what was missing, and where.
pub(super) struct Reader<'a> {
    kind: Kind,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(kind: Kind, bytes: &'a [u8]) -> Self {
        Self { kind, bytes, at: 0 }
    }

    pub(super) fn malformed(&self, field: &'static str, problem: String) -> FrameError {
        FrameError::Malformed { kind: self.kind, field, offset: self.at, problem }
    }

    fn take(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], FrameError> {
        let left = self.bytes.len() - self.at;
        if left < count {
            return Err(self.malformed(field, format!("expected {count} bytes, found {left}")));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FrameError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(field, N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, FrameError> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, FrameError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, FrameError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, FrameError> {
        Ok(i64::from_le_bytes(self.array(field)?))
    }

    /// A text of at most `max` bytes behind a two-byte length.
    pub(super) fn text(&mut self, field: &'static str, max: usize) -> Result<String, FrameError> {
        let length = usize::from(self.u16(field)?);
        if length > max {
            return Err(self.malformed(field, format!("expected at most {max} bytes, found {length}")));
        }
        match std::str::from_utf8(self.take(field, length)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(self.malformed(field, format!("expected UTF-8: {error}"))),
        }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Ends the reading; left-over bytes are an error.
    pub(super) fn finish(self) -> Result<(), FrameError> {
        match self.left() {
            0 => Ok(()),
            left => Err(self.malformed("end", format!("expected the end, found {left} more bytes"))),
        }
    }
}

/// Appends `text` behind a two-byte length, cut at a character so that it has at most `max` bytes.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str, max: usize) {
    let text = cut(text, max);
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The longest start of `text` with at most `max` bytes that ends at a character.
pub(super) fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_character() {
        assert_eq!(cut("grün", 3), "gr");
        assert_eq!(cut("grün", 4), "grü");
        assert_eq!(cut("grün", 99), "grün");
    }
}
