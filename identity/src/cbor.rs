//! Deterministic CBOR (RFC 8949 section 4.2.1): one encoding for one value, every other one
//! refused.

use minicbor::data::Type;
use minicbor::{Decode, Decoder, Encode};

use crate::Error;

/// Encodes. The types of this project define their members in ascending order, which makes the
/// encoding deterministic.
pub fn to_vec<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    to_buffer(value, &mut out);
    out
}

/// Appends the encoding of `value` to `out`.
pub fn to_buffer<T: Encode<()>>(value: &T, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail, and no type of this project has an encoder of its own that
    // could.
    minicbor::encode(value, out).expect("encoding to memory is infallible");
}

/// How many bytes the encoding of `value` has. For secrets: what grows while it is written leaves
/// copies behind.
pub fn length<T: Encode<()>>(value: &T) -> usize {
    let mut length = Length(0);
    minicbor::encode(value, &mut length).expect("counting cannot fail");
    length.0
}

/// Counts what would be written.
struct Length(usize);

impl minicbor::encode::Write for Length {
    type Error = std::convert::Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0 += bytes.len();
        Ok(())
    }
}

/// Decodes and refuses whatever [`to_vec`] would not have written: unknown or repeated members,
/// indefinite lengths, longer heads than needed, bytes after the end.
pub fn from_slice<'b, T: Decode<'b, ()> + Encode<()>>(bytes: &'b [u8]) -> Result<T, Error> {
    let value: T = minicbor::decode(bytes).map_err(|error| Error::Cbor(error.to_string()))?;
    if to_vec(&value) == bytes {
        Ok(value)
    } else {
        Err(Error::Cbor("not the one deterministic encoding".into()))
    }
}

/// A pull parser over untrusted bytes that accepts shortest heads only. Allocates nothing.
#[derive(Debug, Clone)]
pub struct Reader<'b> {
    decoder: Decoder<'b>,
}

impl<'b> Reader<'b> {
    /// Starts at the first byte.
    pub fn new(bytes: &'b [u8]) -> Self {
        Self {
            decoder: Decoder::new(bytes),
        }
    }

    /// What comes next, if anything does.
    pub fn kind(&self) -> Result<Type, Error> {
        self.decoder.datatype().map_err(malformed)
    }

    /// An array of known length.
    pub fn array(&mut self) -> Result<u64, Error> {
        let start = self.decoder.position();
        let length = self.decoder.array().map_err(malformed)?;
        let length = length.ok_or(Error::CborIndefinite)?;
        self.shortest(start, length, 0)?;
        Ok(length)
    }

    /// A map of known length, or `None` for one that ends with a break.
    pub fn map(&mut self) -> Result<Option<u64>, Error> {
        let start = self.decoder.position();
        let length = self.decoder.map().map_err(malformed)?;
        if let Some(length) = length {
            self.shortest(start, length, 0)?;
        }
        Ok(length)
    }

    /// An unsigned integer.
    pub fn u64(&mut self) -> Result<u64, Error> {
        let start = self.decoder.position();
        let value = self.decoder.u64().map_err(malformed)?;
        self.shortest(start, value, 0)?;
        Ok(value)
    }

    /// A byte string of known length.
    pub fn bytes(&mut self) -> Result<&'b [u8], Error> {
        self.definite(Type::BytesIndef)?;
        let start = self.decoder.position();
        let value = self.decoder.bytes().map_err(malformed)?;
        self.shortest(start, value.len() as u64, value.len())?;
        Ok(value)
    }

    /// A text string of known length.
    pub fn text(&mut self) -> Result<&'b str, Error> {
        self.definite(Type::StringIndef)?;
        let start = self.decoder.position();
        let value = self.decoder.str().map_err(malformed)?;
        self.shortest(start, value.len() as u64, value.len())?;
        Ok(value)
    }

    /// A byte string, or nothing for null.
    pub fn bytes_or_null(&mut self) -> Result<Option<&'b [u8]>, Error> {
        if self.kind()? == Type::Null {
            self.decoder.null().map_err(malformed)?;
            return Ok(None);
        }
        self.bytes().map(Some)
    }

    /// Takes the tag if it comes next.
    pub fn tag_if(&mut self, tag: u64) -> Result<bool, Error> {
        if self.kind()? != Type::Tag {
            return Ok(false);
        }
        let start = self.decoder.position();
        let found = self.decoder.tag().map_err(malformed)?.as_u64();
        self.shortest(start, found, 0)?;
        if found == tag {
            Ok(true)
        } else {
            Err(Error::Cbor("unexpected tag".into()))
        }
    }

    /// Takes the break of an indefinite map if it comes next.
    pub fn break_if(&mut self) -> Result<bool, Error> {
        if self.kind()? != Type::Break {
            return Ok(false);
        }
        self.decoder.set_position(self.decoder.position() + 1);
        Ok(true)
    }

    /// Refuses bytes after the end.
    pub fn finish(self) -> Result<(), Error> {
        if self.decoder.position() == self.decoder.input().len() {
            Ok(())
        } else {
            Err(Error::Cbor("bytes after the end".into()))
        }
    }

    fn definite(&self, indefinite: Type) -> Result<(), Error> {
        if self.kind()? == indefinite {
            Err(Error::CborIndefinite)
        } else {
            Ok(())
        }
    }

    fn shortest(&self, start: usize, argument: u64, content: usize) -> Result<(), Error> {
        let shortest = match argument {
            0..=0x17 => 1,
            0x18..=0xff => 2,
            0x100..=0xffff => 3,
            0x1_0000..=0xffff_ffff => 5,
            _ => 9,
        };
        if self.decoder.position() - start - content == shortest {
            Ok(())
        } else {
            Err(Error::CborNotShortest)
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form map_err wants")]
fn malformed(error: minicbor::decode::Error) -> Error {
    if error.is_end_of_input() {
        Error::CborCut
    } else {
        Error::Cbor(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    struct Pair(#[n(0)] u64, #[n(1)] Option<u64>);

    #[test]
    fn only_the_deterministic_encoding_is_read() {
        let good = to_vec(&Pair(1, Some(2)));
        assert_eq!(good, [0x82, 1, 2]);
        assert_eq!(from_slice::<Pair>(&good), Ok(Pair(1, Some(2))));
        for bad in [
            &[0x82, 0x18, 1, 2][..], // a head longer than needed
            &[0x9f, 1, 2, 0xff],     // indefinite length
            &[0x83, 1, 2, 3],        // an unknown member
            &[0x82, 1, 2, 0],        // a byte after the end
            &[0x82, 1],              // cut
            &[0x98, 2, 1, 2],        // array head longer than needed
            &[],
        ] {
            assert!(
                matches!(from_slice::<Pair>(bad), Err(Error::Cbor(_))),
                "{bad:02x?}"
            );
        }
    }

    #[test]
    fn the_reader_takes_shortest_heads_only() {
        assert_eq!(Reader::new(&[0x43, 1, 2, 3]).bytes(), Ok(&[1, 2, 3][..]));
        assert!(Reader::new(&[0x58, 3, 1, 2, 3]).bytes().is_err());
        assert!(Reader::new(&[0x5f, 0x43, 1, 2, 3, 0xff]).bytes().is_err());
        assert!(
            Reader::new(&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
                .bytes()
                .is_err()
        );
        assert_eq!(Reader::new(&[0x61, b'a']).text(), Ok("a"));
        assert!(Reader::new(&[0x61, 0xff]).text().is_err());
        assert!(Reader::new(&[0x19, 0, 1]).u64().is_err());
        assert_eq!(Reader::new(&[0xbf]).map(), Ok(None));
        assert!(Reader::new(&[0xb8, 1]).map().is_err());
        assert_eq!(Reader::new(&[0x9f]).array(), Err(Error::CborIndefinite));
        assert_eq!(
            Reader::new(&[0x7f, 0x61, b'a', 0xff]).text(),
            Err(Error::CborIndefinite)
        );
        assert_eq!(
            Reader::new(&[0x5f, 0x41, 0, 0xff]).bytes(),
            Err(Error::CborIndefinite)
        );
    }

    #[test]
    fn each_width_of_a_head_is_for_what_needs_it() {
        for (head, value) in [
            (&[0x17][..], 0x17),
            (&[0x18, 0x18], 0x18),
            (&[0x18, 0xff], 0xff),
            (&[0x19, 1, 0], 0x100),
            (&[0x19, 0xff, 0xff], 0xffff),
            (&[0x1a, 0, 1, 0, 0], 0x1_0000),
            (&[0x1a, 0xff, 0xff, 0xff, 0xff], 0xffff_ffff),
            (&[0x1b, 0, 0, 0, 1, 0, 0, 0, 0], 0x1_0000_0000),
            (
                &[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                u64::MAX,
            ),
        ] {
            assert_eq!(Reader::new(head).u64(), Ok(value));
            assert_eq!(
                Reader::new(&head[..head.len() - 1]).u64(),
                Err(Error::CborCut)
            );
        }
        for longer in [
            &[0x18, 0x17][..],
            &[0x19, 0, 0xff],
            &[0x1a, 0, 0, 0xff, 0xff],
            &[0x1b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(Reader::new(longer).u64(), Err(Error::CborNotShortest));
        }
    }

    #[test]
    fn the_reader_goes_on_where_it_stopped_and_takes_everything() {
        // A tagged, indefinite map: null, two bytes, a text, an array of one.
        let bytes = [0xd2, 0xbf, 0xf6, 0x42, 1, 2, 0x61, b'a', 0x81, 7, 0xff];
        let mut reader = Reader::new(&bytes);
        assert_eq!(
            (reader.tag_if(18), reader.tag_if(18)),
            (Ok(true), Ok(false))
        );
        assert_eq!(
            (reader.break_if(), reader.map(), reader.break_if()),
            (Ok(false), Ok(None), Ok(false))
        );
        assert_eq!(
            (reader.bytes_or_null(), reader.bytes_or_null()),
            (Ok(None), Ok(Some(&[1, 2][..])))
        );
        assert_eq!(
            (reader.text(), reader.array(), reader.u64()),
            (Ok("a"), Ok(1), Ok(7))
        );
        assert!(reader.clone().finish().is_err());
        assert_eq!((reader.break_if(), reader.finish()), (Ok(true), Ok(())));
        assert_eq!(
            Reader::new(&[0xd8, 18, 0]).tag_if(18),
            Err(Error::CborNotShortest)
        );
        assert!(matches!(
            Reader::new(&[0xd1, 0]).tag_if(18),
            Err(Error::Cbor(_))
        ));
        assert_eq!(Reader::new(&[]).kind(), Err(Error::CborCut));
    }
}
