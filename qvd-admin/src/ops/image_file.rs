//! What kind of image a file is, by its first bytes.

/// How many of the first bytes of a file [`format`] wants to see.
pub(super) const HEAD: usize = 512;

/// The format of an image, as the database records it. What is nothing else is a raw disk.
pub(super) fn format(head: &[u8]) -> &'static str {
    let begins = |magic: &[u8]| head.starts_with(magic);
    if begins(b"QFI\xfb") {
        "qcow2"
    } else if begins(b"\x1f\x8b") {
        "tar.gz"
    } else if begins(b"BZh") {
        "tar.bz2"
    } else if begins(b"\xfd7zXZ\0") {
        "tar.xz"
    } else if begins(b"\x28\xb5\x2f\xfd") {
        "tar.zst"
    } else if head.get(257..262) == Some(b"ustar") {
        "tar"
    } else {
        "raw"
    }
}

/// Whether a driver can start from an image of this format.
pub(super) fn suits(format: &str, hypervisor: &str) -> bool {
    match hypervisor {
        "kvm" => matches!(format, "qcow2" | "raw"),
        "lxc" => format.starts_with("tar"),
        // The process and no-op drivers, and those of others, take anything.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_says_what_it_is() {
        let mut tar = vec![0; HEAD];
        tar[257..262].copy_from_slice(b"ustar");
        for (head, expected) in [
            (b"QFI\xfb\0\0\0\x03".to_vec(), "qcow2"),
            (b"\x1f\x8b\x08".to_vec(), "tar.gz"),
            (b"BZh9".to_vec(), "tar.bz2"),
            (b"\xfd7zXZ\0\0".to_vec(), "tar.xz"),
            (b"\x28\xb5\x2f\xfd".to_vec(), "tar.zst"),
            (tar, "tar"),
            (Vec::new(), "raw"),
            (b"#!/bin/sh".to_vec(), "raw"),
        ] {
            assert_eq!(format(&head), expected);
        }
    }

    #[test]
    fn disks_are_for_kvm_and_archives_for_lxc() {
        assert!(suits("qcow2", "kvm") && suits("raw", "kvm") && !suits("tar.gz", "kvm"));
        assert!(suits("tar.zst", "lxc") && !suits("raw", "lxc"));
        assert!(suits("raw", "process") && suits("tar", "nothing"));
        assert!(!suits("none", "kvm") && !suits("none", "lxc") && suits("none", "process"));
    }
}
