//! `filePermission`: octal text to a file mode.

use std::fmt;

/// The mode of a file: nine permission bits and setuid, setgid, sticky.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileMode(u32);

impl FileMode {
    /// Reads octal digits with an optional sign, as a 32-bit number.
    ///
    /// The number is a Go `os.FileMode`: its low nine bits are the permissions, and bits 23, 22 and 20 stand for
    /// setuid, setgid and sticky. So `755` and `0755` are 0755, `4755` is 0755 too, and `-1` is 7777.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        if digits.is_empty() || !digits.bytes().all(|b| matches!(b, b'0'..=b'7')) {
            return None;
        }
        let magnitude = i64::from_str_radix(digits, 8).ok()?;
        let number = i32::try_from(if negative { -magnitude } else { magnitude }).ok()?;
        let bit = |n: u32, mode: u32| if number.cast_unsigned() >> n & 1 == 1 { mode } else { 0 };
        Some(Self(number.cast_unsigned() & 0o777 | bit(23, 0o4000) | bit(22, 0o2000) | bit(20, 0o1000)))
    }

    /// The mode as `chmod(2)` takes it.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Debug for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_modes() {
        for (text, mode) in [
            ("0600", 0o600),
            ("755", 0o755),
            ("0755", 0o755),
            ("+644", 0o644),
            ("0", 0),
            ("4755", 0o755),
            ("7777", 0o777),
            ("-1", 0o7777),
            ("17777777777", 0o7777),
            ("-0644", 0o7134),
            ("-20000000000", 0),
            ("0000000000000000000755", 0o755),
        ] {
            assert_eq!(FileMode::parse(text).map(FileMode::bits), Some(mode), "{text}");
        }
        for bad in [
            "",
            "0900",
            "900",
            "0o755",
            "0x1ff",
            "rw",
            "u=rw",
            "7_5",
            "-",
            "+",
            "--1",
            "20000000000",
            "-20000000001",
            " 7",
        ] {
            assert_eq!(FileMode::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parse_and_print(mode in 0u32..=0o777) {
            let printed = FileMode(mode).to_string();
            prop_assert_eq!(FileMode::parse(&printed), Some(FileMode(mode)));
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = FileMode::parse(&text);
        }
    }
}
