//! What a visitor does at the screen: waits for the desktop, looks at the terminal, types.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::desktop::{Part, TERMINAL, drawn, nx_window};
use crate::picture::{Area, Picture};
use crate::process::{Process, run, wait_until};
use crate::screen::Screen;
use crate::site::Site;
use crate::window::Window;

/// From the start of the client to the drawn desktop; a cold disk and a busy machine included.
pub const DRAW_LIMIT: Duration = Duration::from_secs(120);

/// Waits until all `parts` of a machine's desktop show in the NX window, and pictures it.
///
/// # Errors
///
/// What was missing last, or what the client said when it ended.
pub fn wait_drawn(
    site: &Site,
    screen: &Screen,
    vm: i64,
    client: &mut Process,
    parts: &[Part],
) -> Result<Picture> {
    let display = screen.open()?;
    let mut last = String::from("nothing yet");
    let look = || drawn(&display, &nx_window(&display)?, &site.inside(vm)?, parts);
    let result = wait_until("the desktop", DRAW_LIMIT, || {
        if !client.is_running() {
            return Some(None);
        }
        match look() {
            Ok(picture) => Some(Some(picture)),
            Err(e) => {
                last = format!("{e:#}");
                None
            }
        }
    });
    match result {
        Ok(Some(picture)) => Ok(picture),
        Ok(None) => {
            let lines = client.lines();
            let tail = lines[lines.len().saturating_sub(10)..].join("\n  ");
            let (guest, node) = (site.guest_log(vm), site.errors());
            bail!(
                "the client ended (log {}):\n  {tail}\nmachine:\n  {guest}\nnode:\n  {node}",
                client.log().display()
            )
        }
        Err(e) => {
            let (dir, node) = (site.dir().display(), site.errors());
            Err(e.context(format!("last seen: {last}; logs below {dir}; node:\n  {node}")))
        }
    }
}

/// The terminal's text area, in the coordinates of the desktop, which are those of the NX window.
///
/// # Errors
///
/// When there is no terminal.
pub fn terminal(site: &Site, vm: i64) -> Result<Area> {
    let windows = site.inside(vm)?.windows()?;
    let terminal = windows.iter().rev().find(|w| w.class.to_lowercase().contains("term"));
    Ok(terminal.context("no terminal on the desktop")?.area)
}

/// What the NX window shows at this moment.
///
/// # Errors
///
/// When there is none.
pub fn look(screen: &Screen) -> Result<Picture> {
    let display = screen.open()?;
    let nx = nx_window(&display)?;
    display.picture(nx.id)
}

/// Waits until the NX window shows what `wanted` accepts.
///
/// # Errors
///
/// When it does not in time.
pub fn wait_shown(screen: &Screen, what: &str, wanted: impl Fn(&Picture) -> bool) -> Result<Picture> {
    wait_until(what, DRAW_LIMIT, || look(screen).ok().filter(|picture| wanted(picture)))
}

/// Clicks into a place of the desktop and types a line there, as a person would: with the screen's mouse and keys.
///
/// # Errors
///
/// When there is no NX window, or xdotool fails.
pub fn type_line(screen: &Screen, place: Area, text: &str) -> Result<()> {
    let Window { area, .. } = nx_window(&screen.open()?)?;
    let x = area.x + place.x + place.width as i32 / 2;
    let y = area.y + place.y + place.height as i32 / 2;
    let xdotool = |args: &[&str]| run(screen.command("xdotool").args(args));
    xdotool(&["mousemove", &x.to_string(), &y.to_string(), "click", "1"])?;
    xdotool(&["type", "--delay", "25", "--", text])?;
    xdotool(&["key", "Return"])?;
    Ok(())
}

/// The parts of a desktop that is a terminal alone.
pub const TERMINAL_ALONE: &[Part] = &[TERMINAL];
