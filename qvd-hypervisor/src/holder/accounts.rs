//! The account files that a machine sees: the host's, with the session's user in them.

use super::records::Account;

/// The text of `/etc/passwd` inside.
pub(crate) fn passwd(host: &str, account: &Account, shell: &str) -> String {
    let line = format!(
        "{}:x:{}:{}:{}:{}:{shell}",
        account.login, account.uid, account.gid, account.login, account.home
    );
    replace(host, &account.login, account.uid, &line)
}

/// The text of `/etc/group` inside.
pub(crate) fn group(host: &str, account: &Account) -> String {
    let line = format!("{}:x:{}:", account.login, account.gid);
    replace(host, &account.login, account.gid, &line)
}

/// A login as an account name: itself, unless programs would stumble over it or take it for somebody else.
pub fn safe_name(login: &str) -> String {
    let clean: String = login
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_.@-".contains(c) { c } else { '_' })
        .take(LONGEST_NAME)
        .collect();
    match clean.as_str() {
        "" | "." | ".." => "user".to_owned(),
        // With whatever number, programs take it for the administrator by its name.
        "root" => "user-root".to_owned(),
        name if name.starts_with('-') => format!("u{name}"),
        _ => clean,
    }
}

/// The host's lines without those that claim the same name or number, then ours.
fn replace(host: &str, name: &str, id: u32, line: &str) -> String {
    let id = id.to_string();
    let mut text: String = host
        .lines()
        .filter(|line| {
            let mut fields = line.split(':');
            fields.next() != Some(name) && fields.nth(1) != Some(&id)
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    text.push_str(line);
    text.push('\n');
    text
}

const LONGEST_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> Account {
        Account {
            uid: 2_000_007,
            gid: 2_000_007,
            login: "ann".into(),
            home: "/home/ann".into(),
            switch: true,
        }
    }

    #[test]
    fn the_session_user_replaces_a_namesake_and_a_number() {
        let host =
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/zsh\nx:x:2000007:9::/:/bin/false\n";
        assert_eq!(
            passwd(host, &ann(), "/bin/bash"),
            "root:x:0:0::/root:/bin/sh\nann:x:2000007:2000007:ann:/home/ann:/bin/bash\n"
        );
        assert_eq!(group("root:x:0:\nann:x:1000:bob\n", &ann()), "root:x:0:\nann:x:2000007:\n");
    }

    #[test]
    fn any_login_becomes_a_harmless_name() {
        for (login, name) in [
            ("ann", "ann"),
            ("Ann.Lee@corp", "Ann.Lee@corp"),
            ("a:b\nc/d", "a_b_c_d"),
            ("-rf", "u-rf"),
            ("", "user"),
            ("..", "user"),
            ("root", "user-root"),
            ("Ünal", "_nal"),
        ] {
            assert_eq!(safe_name(login), name, "{login:?}");
        }
        assert_eq!(safe_name(&"x".repeat(99)).len(), LONGEST_NAME);
    }
}
