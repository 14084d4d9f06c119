//! Handles of large values, which go past bincode.
//!
//! bincode shows whoever writes or reads a value its bytes, and nothing else: a large value would be copied into each frame
//! that carries it, and out of it again. So whoever writes one *lends* its handle meanwhile, and a writer that can keep
//! handles takes that in the place of the bytes. And whoever reads says meanwhile which buffer it is that is read, so that a
//! value can share it.
//!
//! Each is a word of the thread, for as long as one call takes. Without them everything means the same, and is copied.

use std::cell::Cell;
use std::thread::LocalKey;

use bytes::Bytes;

/// To copy fewer bytes takes no longer than to keep a handle of them, and of a piece of memory that is there for them alone.
pub const LENT_BYTES_MIN: usize = 16 << 10;

/// A value shares a buffer of which it leaves at most one part in so many unused: those stay in memory for as long as it does.
const UNUSED_PART_MAX: usize = 8;

type Word = Cell<Option<Bytes>>;

thread_local! {
    static LENT: Word = const { Cell::new(None) };
    static SOURCE: Word = const { Cell::new(None) };
}

/// Has `write` write `bytes`, and lends their handle to the writer.
pub(super) fn lend<R>(bytes: &Bytes, write: impl FnOnce() -> R) -> R {
    with(&LENT, bytes, write)
}

/// The handle of these very bytes, where whoever has them written lends one.
#[must_use]
pub fn lent(bytes: &[u8]) -> Option<Bytes> {
    LENT.take().filter(|lent| lent.as_ptr_range() == bytes.as_ptr_range())
}

/// Has `read` read what lies in `source`: large values may share it.
pub fn share<R>(source: &Bytes, read: impl FnOnce() -> R) -> R {
    with(&SOURCE, source, read)
}

/// A handle of `bytes`, where they are nearly all of what is read and may be shared.
pub(super) fn shared(bytes: &[u8]) -> Option<Bytes> {
    let source = SOURCE.take()?;
    let (whole, part) = (source.as_ptr_range(), bytes.as_ptr_range());
    let is_within = whole.start <= part.start && part.end <= whole.end;
    let unused = source.len().saturating_sub(bytes.len());
    let shared = (is_within && unused <= source.len() / UNUSED_PART_MAX).then(|| source.slice_ref(bytes));
    SOURCE.set(Some(source));
    shared
}

/// Sets a word of the thread, and takes it back however `act` ends.
fn with<R>(word: &'static LocalKey<Word>, bytes: &Bytes, act: impl FnOnce() -> R) -> R {
    struct Forget(&'static LocalKey<Word>);
    impl Drop for Forget {
        fn drop(&mut self) {
            self.0.set(None);
        }
    }
    word.set(Some(bytes.clone()));
    let _forget = Forget(word);
    act()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bytes_that_are_lent_have_a_handle_and_only_meanwhile() {
        let bytes = Bytes::from(vec![7; 100]);
        let others = bytes.to_vec();
        assert_eq!(lend(&bytes, || lent(&bytes).map(|lent| lent.as_ptr())), Some(bytes.as_ptr()));
        assert_eq!(lend(&bytes, || lent(&others)), None, "the same bytes elsewhere");
        assert_eq!(lend(&bytes, || lent(&bytes[..99])), None, "some of them");
        assert_eq!(lent(&bytes), None);
    }

    #[test]
    fn what_is_nearly_all_of_its_source_is_shared_with_it() {
        let source = Bytes::from((0..80).collect::<Vec<u8>>());
        let copy = source.to_vec();
        let place = |part: &[u8]| share(&source, || shared(part)).map(|shared| shared.as_ptr());
        assert_eq!(place(&source[10..]), Some(source[10..].as_ptr()));
        assert_eq!(place(&source[11..]), None, "too much else would stay in memory");
        assert_eq!(place(&copy), None, "it lies elsewhere");
        assert_eq!(place(&[]), None);
        let twice = share(&source, || [shared(&source).is_some(), shared(&source).is_some()]);
        assert_eq!(twice, [true, true]);
        assert_eq!(shared(&source), None);
    }

    #[test]
    fn a_panic_leaves_nothing_behind() {
        let bytes = Bytes::from(vec![7; 100]);
        let panicked = std::panic::catch_unwind(|| share(&bytes, || panic!("halfway")));
        assert!(panicked.is_err());
        assert_eq!(shared(&bytes), None);
    }
}
