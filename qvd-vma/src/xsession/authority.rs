//! The X cookie that keeps other users of the machine off the desktop. Pure.

use std::fmt;

/// A fresh secret of the kind `MIT-MAGIC-COOKIE-1`.
#[derive(Clone, PartialEq, Eq)]
pub struct Cookie([u8; 16]);

impl Cookie {
    /// A cookie of these random bytes.
    pub fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    /// The content of an `.Xauthority` file that opens `display` to its reader, under whatever name the reader
    /// calls the machine: the session must survive a change of the host name.
    pub fn authority(&self, display: u16) -> Vec<u8> {
        let mut record = FAMILY_WILD.to_be_bytes().to_vec();
        for field in [&b""[..], display.to_string().as_bytes(), PROTOCOL, &self.0] {
            // No field is longer than the protocol's name.
            record.extend_from_slice(&(field.len() as u16).to_be_bytes());
            record.extend_from_slice(field);
        }
        record
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("*****")
    }
}

const FAMILY_WILD: u16 = 0xffff;
const PROTOCOL: &[u8] = b"MIT-MAGIC-COOKIE-1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_has_the_layout_of_the_x_library() {
        let record = Cookie::new([7; 16]).authority(103);
        let expected =
            [&[0xff, 0xff, 0, 0, 0, 3][..], b"103", &[0, 18], b"MIT-MAGIC-COOKIE-1", &[0, 16], &[7; 16]]
                .concat();
        assert_eq!(record, expected);
    }

    #[test]
    fn a_cookie_does_not_show_itself() {
        assert_eq!(format!("{:?}", Cookie::new([0x41; 16])), "*****");
    }
}
