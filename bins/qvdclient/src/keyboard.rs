//! The keyboard of the screen, so that the desktop's keys mean the same.

use std::process::Stdio;

use tokio::process::Command;

/// `MODEL/LAYOUT` as the X server says, when `setxkbmap` is there to ask it.
pub(crate) async fn of_the_screen() -> Option<String> {
    let mut command = Command::new("setxkbmap");
    command.arg("-query").stderr(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.ok()?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// Model and first layout of the answer; anything that NX options cannot carry is left alone.
fn parse(text: &str) -> Option<String> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let first = line.trim().split(',').next()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        (!first.is_empty() && first.chars().all(plain)).then(|| first.to_owned())
    };
    Some(format!("{}/{}", field("model:").unwrap_or_else(|| "pc105".to_owned()), field("layout:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_layout_counts() {
        let text = "rules:      evdev\nmodel:      pc104\nlayout:     es,us\nvariant:    ,\n";
        assert_eq!(parse(text).as_deref(), Some("pc104/es"));
        assert_eq!(parse("layout: de\n").as_deref(), Some("pc105/de"));
        assert_eq!(parse(""), None);
        assert_eq!(parse("model: pc105\nlayout: a=b\n"), None);
    }
}
