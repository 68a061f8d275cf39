//! The names inside a volume, and what makes it complete.
//!
//! ```text
//! ..2026_03_04_05_06_07.1234567890/   one generation: the real files
//! ..data -> ..2026_03_04_05_06_07.1234567890
//! ..data_tmp                          for the moment of a switch
//! name -> ..data/name                 one link for each top-level name
//! ```
//!
//! The layout is the Kubernetes volume writers': a reader through `..data` sees all of one generation or all of the
//! next. Applications watch `..data`, and the Secrets Store CSI Driver uses the same names, so either driver can take
//! over the other's volumes.

use std::{
    collections::hash_map::RandomState,
    ffi::{OsStr, OsString},
    fmt::Write,
    hash::{BuildHasher, Hasher},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use rustix::io::Errno;
use time::OffsetDateTime;

use super::directory::Directory;

/// The link to the current generation.
pub(super) const DATA: &str = "..data";
/// The link that is about to become [`DATA`].
pub(super) const DATA_TMP: &str = "..data_tmp";

/// Whether a name is one of a generation.
pub(super) fn is_generation(name: &OsStr) -> bool {
    let Some(rest) = name.as_bytes().strip_prefix(b"..") else { return false };
    let shape = b"0000_00_00_00_00_00.";
    let Some((stamp, digits)) = rest.split_at_checked(shape.len()) else { return false };
    let fits = |(&is, &should): (&u8, &u8)| if should == b'0' { is.is_ascii_digit() } else { is == should };
    stamp.iter().zip(shape).all(fits) && !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// Whether a name is reserved for the volume's own use: the current and former generations, and what a crash left.
pub(super) fn is_internal(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"..")
}

/// A name for a new generation, unlikely to be taken.
pub(super) fn new_generation_name() -> String {
    let now = OffsetDateTime::now_utc();
    let mut name = String::with_capacity(32);
    // The keys of a `RandomState` are random for each one.
    let random = RandomState::new().build_hasher().finish() % 10_000_000_000;
    let written = write!(
        name,
        "..{:04}_{:02}_{:02}_{:02}_{:02}_{:02}.{random}",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
    );
    debug_assert!(written.is_ok(), "writing to a string does not fail");
    name
}

/// What the link for a top-level name has to say.
pub(super) fn link_for(name: &OsStr) -> OsString {
    let mut target = OsString::from(DATA);
    target.push("/");
    target.push(name);
    target
}

/// The name of the generation that `..data` points to, if it points to one at all. It may not exist.
///
/// Not being able to tell is an error, never "none": what is not current gets removed.
pub(super) fn current_name(root: &Directory) -> rustix::io::Result<Option<OsString>> {
    match root.link_target(OsStr::new(DATA)) {
        Ok(name) => Ok(Some(name).filter(|name| is_generation(name))),
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The current generation; `None` if `..data` does not resolve to one.
pub(super) fn current(root: &Directory) -> rustix::io::Result<Option<Directory>> {
    let Some(name) = current_name(root)? else { return Ok(None) };
    match root.open(Path::new(&name)) {
        Ok(generation) => Ok(Some(generation)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether a volume is complete: `..data` resolves, and every top-level name of its generation is reachable.
///
/// A generation is complete before `..data` is made to point at it, by this driver and by the reference.
pub(super) fn is_complete(root: &Directory) -> rustix::io::Result<bool> {
    let Some(generation) = current(root)? else { return Ok(false) };
    for (name, _) in generation.entries()? {
        match root.link_target(&name) {
            Ok(target) if target == link_for(&name) => {}
            Ok(_) | Err(Errno::NOENT | Errno::INVAL) => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_names() {
        for good in ["..2026_03_04_05_06_07.1", "..2026_03_04_05_06_07.1234567890"] {
            assert!(is_generation(OsStr::new(good)), "{good}");
        }
        for bad in [
            "..data",
            "..data_tmp",
            "..",
            "2026_03_04_05_06_07.1",
            "..2026_03_04_05_06_07.",
            "..2026_03_04_05_06_07.x",
            "..2026_03_04_05_06_07.1/..",
            "..2026-03-04_05_06_07.1",
            "../2026_03_04_05_06_07.1",
        ] {
            assert!(!is_generation(OsStr::new(bad)), "{bad}");
        }
        let (a, b) = (new_generation_name(), new_generation_name());
        assert!(is_generation(OsStr::new(&a)) && a != b, "{a} {b}");
    }
}
