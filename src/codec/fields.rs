//! Integers of fixed width, for the headers.

use super::CodecError;

/// Appends the bytes of one field.
pub(super) fn put<const N: usize>(out: &mut Vec<u8>, field: [u8; N]) {
    out.extend_from_slice(&field);
}

/// Takes fields off the front of a header.
pub(super) struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `N` bytes.
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (field, rest) =
            self.0.split_first_chunk().ok_or(CodecError::TooShort { bytes: self.0.len(), bytes_min: N })?;
        self.0 = rest;
        Ok(*field)
    }
}
