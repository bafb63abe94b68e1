//! The wire format of protobuf, read in place.
//!
//! ```text
//! message = { tag, payload }      tag = varint (number << 3 | kind)
//! kind 0  varint                  7 bits a byte, low first, at most 10 bytes
//! kind 1  8 bytes, little-endian
//! kind 2  varint length, then that many bytes: text, packed numbers, or a message
//! kind 5  4 bytes, little-endian
//! ```
//! A length is checked against the bytes that are left before anything is made of it, and nothing is allocated here but lists of
//! numbers, in proportion to the bytes that hold them.

use crate::{Error, Result};

/// Messages inside messages at most; protobuf's own readers stop at the same depth.
const MAX_DEPTH: u32 = 100;

/// What is left of one message.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// Where `bytes` begins in the file, for error messages.
    offset: usize,
    depth: u32,
}

/// One field of a message.
#[derive(Debug)]
pub(super) struct Field<'a> {
    /// The number that names it.
    pub(super) number: u64,
    payload: Payload<'a>,
    offset: usize,
    depth: u32,
}

#[derive(Debug)]
enum Payload<'a> {
    Varint(u64),
    Fixed64,
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
}

fn malformed<T>(what: &str, offset: usize) -> Result<T> {
    Err(Error::Malformed {
        what: what.into(),
        offset,
    })
}

impl<'a> Reader<'a> {
    /// Reads a whole file as one message.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            offset: 0,
            depth: 0,
        }
    }

    /// The next field; `None` at the end of the message.
    pub(super) fn field(&mut self) -> Result<Option<Field<'a>>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let start = self.offset;
        let tag = self.varint()?;
        let offset = self.offset;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Payload::Fixed64
            }
            2 => {
                let length = self.varint()?;
                match usize::try_from(length) {
                    Ok(length) if length <= self.bytes.len() => Payload::Bytes(self.take(length)?),
                    _ => {
                        return malformed(
                            &format!(
                                "a field says it has {length} bytes, {} are left",
                                self.bytes.len()
                            ),
                            offset,
                        );
                    }
                }
            }
            5 => Payload::Fixed32([0, 1, 2, 3].map({
                let word = self.take(4)?;
                |i: usize| word[i]
            })),
            3 | 4 => return malformed("field groups are not part of ONNX", start),
            kind => return malformed(&format!("there is no wire type {kind}"), start),
        };
        let offset = match payload {
            Payload::Bytes(bytes) => self.offset - bytes.len(),
            _ => offset,
        };
        match tag >> 3 {
            0 => malformed("there is no field number 0", start),
            number => Ok(Some(Field {
                number,
                payload,
                offset,
                depth: self.depth,
            })),
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let Some((taken, left)) = self.bytes.split_at_checked(n) else {
            return malformed("the file ends inside a field", self.offset);
        };
        self.bytes = left;
        self.offset += n;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for (i, &byte) in self.bytes.iter().take(10).enumerate() {
            if i == 9 && byte > 1 {
                return malformed("a number has more than 64 bits", self.offset);
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.take(i + 1)?;
                return Ok(value);
            }
        }
        malformed("a number does not end", self.offset)
    }
}

impl<'a> Field<'a> {
    fn wrong<T>(&self, expected: &str) -> Result<T> {
        malformed(
            &format!("field {} is not {expected}", self.number),
            self.offset,
        )
    }

    /// The bytes of a length-delimited field.
    pub(super) fn bytes(&self) -> Result<&'a [u8]> {
        match self.payload {
            Payload::Bytes(bytes) => Ok(bytes),
            _ => self.wrong("a string of bytes"),
        }
    }

    /// A name or another text.
    pub(super) fn text(&self) -> Result<&'a str> {
        match std::str::from_utf8(self.bytes()?) {
            Ok(text) => Ok(text),
            Err(_) => self.wrong("UTF-8"),
        }
    }

    /// A message inside this one.
    pub(super) fn message(&self) -> Result<Reader<'a>> {
        if self.depth == MAX_DEPTH {
            return malformed("messages are nested too deeply", self.offset);
        }
        Ok(Reader {
            bytes: self.bytes()?,
            offset: self.offset,
            depth: self.depth + 1,
        })
    }

    /// An integer. Negative ones are stored as their two's complement.
    pub(super) fn int(&self) -> Result<i64> {
        match self.payload {
            Payload::Varint(value) => Ok(value.cast_signed()),
            _ => self.wrong("an integer"),
        }
    }

    /// A float.
    pub(super) fn float(&self) -> Result<f32> {
        match self.payload {
            Payload::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => self.wrong("a float"),
        }
    }

    /// Appends the integers of a repeated field, packed or one by one.
    pub(super) fn ints(&self, to: &mut Vec<i64>) -> Result<()> {
        let Payload::Bytes(bytes) = self.payload else {
            to.push(self.int()?);
            return Ok(());
        };
        let mut packed = Reader {
            bytes,
            offset: self.offset,
            depth: self.depth,
        };
        while !packed.bytes.is_empty() {
            to.push(packed.varint()?.cast_signed());
        }
        Ok(())
    }

    /// Appends the floats of a repeated field, packed or one by one.
    pub(super) fn floats(&self, to: &mut Vec<f32>) -> Result<()> {
        let Payload::Bytes(bytes) = self.payload else {
            to.push(self.float()?);
            return Ok(());
        };
        let (words, []) = bytes.as_chunks::<4>() else {
            return self.wrong("a whole number of floats");
        };
        to.extend(words.iter().map(|&w| f32::from_le_bytes(w)));
        Ok(())
    }

    /// Appends the doubles of a packed field.
    pub(super) fn doubles(&self, to: &mut Vec<f64>) -> Result<()> {
        let (words, []) = self.bytes()?.as_chunks::<8>() else {
            return self.wrong("a whole number of doubles");
        };
        to.extend(words.iter().map(|&w| f64::from_le_bytes(w)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> Result<Option<Field<'_>>> {
        Reader::new(bytes).field()
    }

    #[test]
    fn numbers() {
        let field = first(&[0x08, 0x96, 0x01]).unwrap().unwrap();
        assert_eq!((field.number, field.int().unwrap()), (1, 150));
        let minus_one = [0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(first(&minus_one).unwrap().unwrap().int().unwrap(), -1);
        let one = first(&[0x15, 0, 0, 0x80, 0x3f]).unwrap().unwrap();
        assert_eq!((one.number, one.float().unwrap()), (2, 1.0));
        assert!(one.int().is_err() && one.bytes().is_err());
    }

    #[test]
    fn repeated_numbers_packed_and_unpacked() {
        let mut ints = Vec::new();
        for bytes in [&[0x0a, 3, 1, 0x96, 0x01][..], &[0x08, 7]] {
            first(bytes).unwrap().unwrap().ints(&mut ints).unwrap();
        }
        assert_eq!(ints, [1, 150, 7]);
        let broken = first(&[0x0a, 2, 1, 0x96]).unwrap().unwrap();
        assert!(broken.ints(&mut ints).is_err());
        assert!(broken.floats(&mut Vec::new()).is_err());
        assert!(broken.doubles(&mut Vec::new()).is_err());
    }

    #[test]
    fn damage_is_refused() {
        let length_past_the_end = &[0x0a, 5, 1][..];
        let huge_length = &[0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        let no_end = &[0x08, 0x80];
        let too_long = &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2];
        let group = &[0x0b];
        let kind_6 = &[0x0e];
        let number_0 = &[0x00, 0];
        let cut_words = &[0x0d, 1, 2, 3];
        for bytes in [
            length_past_the_end,
            huge_length,
            no_end,
            too_long,
            group,
            kind_6,
            number_0,
            cut_words,
            &[0x09, 1],
        ] {
            assert!(
                matches!(first(bytes), Err(Error::Malformed { .. })),
                "{bytes:?}"
            );
        }
        assert!(first(&[]).unwrap().is_none());
    }

    #[test]
    fn nesting_ends() {
        let mut bytes = Vec::new();
        for _ in 0..200 {
            let mut outer = vec![0x0a];
            let mut n = bytes.len();
            while n >= 0x80 {
                outer.push(n as u8 | 0x80);
                n >>= 7;
            }
            outer.push(n as u8);
            outer.append(&mut bytes);
            bytes = outer;
        }
        let mut reader = Reader::new(&bytes);
        let mut depth = 0;
        while let Ok(Some(Ok(inner))) = reader.field().map(|f| f.map(|f| f.message())) {
            reader = inner;
            depth += 1;
        }
        assert_eq!(depth, MAX_DEPTH);
    }
}
