//! Screens that want a cookie, with a real X server behind them.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::path::Path;
use std::process::Stdio;

use common::x::{LikeSsh, XServer};
use common::{LIMIT, skip};
use qvd_client::Error;
use qvd_client::tunnel::Screen;
use tokio::process::Command;
use tokio::time::timeout;

/// The text of the refusal.
async fn refusal(display: &str, authority: &Path) -> String {
    let error = Screen::open(display, authority).await.unwrap_err();
    assert!(matches!(error, Error::ScreenRefuses { .. }), "{error:?}");
    assert!(error.to_string().contains(authority.to_str().unwrap()), "{error}");
    error.to_string()
}

/// Whether a client without a cookie is let in.
async fn is_open(display: &str) -> bool {
    Screen::open(display, Path::new("/nonexistent")).await.is_ok()
}

#[tokio::test]
async fn an_open_display_is_used_as_it_is() {
    let Some(x) = XServer::open().await else { return skip("Xvfb does not start") };
    let screen = Screen::open(&x.display(), Path::new("/nonexistent")).await.unwrap();
    assert_eq!(screen.display(), x.display());
    let same = format!("unix{}.0", x.display());
    assert_eq!(Screen::open(&same, Path::new("/nonexistent")).await.unwrap().display(), same);
}

#[tokio::test]
async fn a_cookie_is_shown_for_those_who_have_none() {
    let Some(x) = XServer::with_cookie().await else { return skip("Xvfb does not start") };
    assert!(!is_open(&x.display()).await);
    let screen = Screen::open(&x.display(), &x.own_authority()).await.unwrap();
    assert_ne!(screen.display(), x.display());
    assert!(is_open(screen.display()).await);
    let neighbour = Screen::open(&x.display(), &x.own_authority()).await.unwrap();
    assert_ne!(screen.display(), neighbour.display());
}

#[tokio::test]
async fn a_display_behind_ssh_is_opened_with_its_cookie() {
    let Some(x) = XServer::with_cookie().await else { return skip("Xvfb does not start") };
    let ssh = LikeSsh::before(&x).await;
    let screen =
        Screen::open(&ssh.display(), &x.authority("ssh", ssh.number, &LikeSsh::COOKIE)).await.unwrap();
    assert!(is_open(screen.display()).await);
    let text = refusal(&ssh.display(), Path::new("/nonexistent")).await;
    assert!(text.contains("none can be read") && !text.contains("xhost"), "{text}");
}

#[tokio::test]
async fn what_is_wrong_with_the_cookie_is_said() {
    let Some(x) = XServer::with_cookie().await else { return skip("Xvfb does not start") };
    let display = x.display();
    let number: u16 = display[1..].parse().unwrap();
    for (authority, words) in [
        (x.authority("other", number + 1, &XServer::COOKIE), "there is none for it"),
        (x.authority("wrong", number, b"another cookie.."), "does not take the cookie"),
        ("/nonexistent".into(), "none can be read"),
    ] {
        let text = refusal(&display, &authority).await;
        assert!(text.contains(words) && text.contains("XAUTHORITY") && text.contains("xhost"), "{text}");
    }
}

#[tokio::test]
async fn another_user_is_not_let_in() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can become another user");
    }
    let Some(x) = XServer::with_cookie().await else { return skip("Xvfb does not start") };
    let screen = Screen::open(&x.display(), &x.own_authority()).await.unwrap();
    let asks = async |before: &[&str]| {
        let words = [before, &["setxkbmap", "-display", screen.display(), "-query"]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("XAUTHORITY", "/dev/null");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        timeout(LIMIT, command.status()).await.unwrap()
    };
    let Ok(ours) = asks(&[]).await else { return skip("setxkbmap is missing") };
    assert!(ours.success());
    let theirs = asks(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]).await.unwrap();
    assert!(!theirs.success());
}
