//! Is the desktop drawn? Its own parts, the panel and the terminal, must show inside the NX window.
//!
//! Neither a timer nor a number of colours tells that: the frame round an empty NX window already has hundreds. So
//! each part is looked up where it lives, on the agent's display inside the virtual machine, and its pixels must be
//! the ones that the NX window shows at the same place on the user's screen.

use anyhow::{Context as _, Result, bail};

use crate::picture::{Area, Picture};
use crate::window::{Display, Window};

/// Title that the agent gives its window, and class that every nxagent gives its own.
const NX_WINDOW: (&str, &str) = ("QVD", "NXAgent");

/// Share of a part's pixels that must be the same on both sides; a blinking cursor or a clock may differ.
const ALIKE: f64 = 0.98;

/// What is looked for: words, any of which occurs in a window's class.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// For people.
    pub name: &'static str,
    /// Lower-case words of the class.
    pub words: &'static [&'static str],
}

/// Panel or task bar.
pub const PANEL: Part = Part { name: "panel", words: &["xfce4-panel", "taskbar", "tint2"] };

/// Terminal window.
pub const TERMINAL: Part = Part { name: "terminal", words: &["terminal", "xterm"] };

/// The NX window on the user's screen.
///
/// # Errors
///
/// When there is none.
pub fn nx_window(screen: &Display) -> Result<Window> {
    nx_windows(screen)?.pop().context("no NX window on the screen")
}

/// All NX windows of QVD on a screen: a user may have others open. A window manager's frame, which may carry the same
/// title, has another class.
///
/// # Errors
///
/// When the connection is gone.
pub fn nx_windows(screen: &Display) -> Result<Vec<Window>> {
    let (title, class) = NX_WINDOW;
    let mut windows = screen.windows()?;
    windows.retain(|w| {
        w.title == title && w.class.ends_with(class) && w.area.width > 100 && w.area.height > 100
    });
    Ok(windows)
}

/// Pictures the NX window once all `parts` show in it.
///
/// # Errors
///
/// What is missing, in words.
pub fn drawn(screen: &Display, nx: &Window, inside: &Display, parts: &[Part]) -> Result<Picture> {
    let outer = screen.picture(nx.id)?;
    let inner = inside.screen()?;
    let windows = inside.windows()?;
    for part in parts {
        let places: Vec<Area> =
            windows.iter().filter(|w| part.fits(w)).map(|w| clip(w.area, &inner)).collect();
        if places.is_empty() {
            bail!("the desktop has no {} yet", part.name);
        }
        let shows = |area: &Area| inner.colours(*area) > 1 && outer.likeness(&inner, *area) >= ALIKE;
        if !places.iter().any(shows) {
            bail!("the {} does not show in the NX window yet", part.name);
        }
    }
    Ok(outer)
}

impl Part {
    fn fits(&self, window: &Window) -> bool {
        let class = window.class.to_lowercase();
        window.area.width >= 60
            && window.area.height >= 16
            && self.words.iter().any(|word| class.contains(word))
    }
}

/// The visible part of an area.
fn clip(area: Area, picture: &Picture) -> Area {
    let right = (area.x + area.width as i32).min(picture.width() as i32);
    let lower = (area.y + area.height as i32).min(picture.height() as i32);
    let (x, y) = (area.x.max(0), area.y.max(0));
    Area { x, y, width: (right - x).max(0) as u32, height: (lower - y).max(0) as u32 }
}
