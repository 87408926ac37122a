//! Mount options under which a lock protects nothing.

use std::path::Path;

/// Names the option that makes locks below `path` worthless, given the text of `/proc/self/mountinfo`.
pub fn unsafe_lock_options(mountinfo: &str, path: &Path) -> Option<String> {
    let mount = mountinfo
        .lines()
        .filter_map(parse)
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.len())?;
    if !mount.kind.starts_with("nfs") {
        return None;
    }
    mount
        .options
        .split(',')
        .find(|option| {
            *option == "nolock"
                || matches!(option.strip_prefix("local_lock="), Some(scope) if scope != "none")
        })
        .map(|option| format!("{option} on {}", mount.point))
}

struct Mount<'a> {
    point: String,
    kind: &'a str,
    options: &'a str,
}

fn parse(line: &str) -> Option<Mount<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let point = left.split(' ').nth(4)?.replace("\\040", " ").replace("\\134", "\\");
    let mut right = right.split(' ');
    let kind = right.next()?;
    Some(Mount { point, kind, options: right.nth(1)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:40 / /srv/a\\040b rw - nfs4 nas:/x rw,vers=4.2,local_lock=none
41 22 0:41 / /srv/bad rw - nfs nas:/y rw,vers=3,nolock,local_lock=all
";

    #[test]
    fn only_the_nearest_network_mount_counts() {
        assert_eq!(unsafe_lock_options(INFO, Path::new("/var/lib/qvd")), None);
        assert_eq!(unsafe_lock_options(INFO, Path::new("/srv/a b/homefs")), None);
        let found = unsafe_lock_options(INFO, Path::new("/srv/bad/homefs")).unwrap();
        assert_eq!(found, "nolock on /srv/bad");
    }
}
