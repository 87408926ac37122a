//! An X screen seen by a client: its windows and their pictures.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use x11rb::connection::Connection as _;
use x11rb::protocol::xproto::{
    AtomEnum, ClientMessageEvent, ConnectionExt as _, EventMask, Family, GetImageReply, HostMode,
    ImageFormat, MapState, Window as XWindow,
};
use x11rb::rust_connection::{DefaultStream, RustConnection};

use crate::picture::{Area, Picture};

/// A connection to an X server.
pub struct Display {
    connection: RustConnection,
    root: XWindow,
    ignored: Vec<u32>,
}

/// A window, as it lies on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its X id.
    pub id: u32,
    /// Instance and class, joined by a dot; empty when it has none.
    pub class: String,
    /// Title.
    pub title: String,
    /// Place and size relative to the screen's root.
    pub area: Area,
}

impl std::fmt::Debug for Display {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Display")
    }
}

impl Display {
    /// Connects to a display by name (`:50`), with the caller's own authority.
    ///
    /// # Errors
    ///
    /// When there is none or it refuses.
    pub fn open(name: &str) -> Result<Self> {
        let (connection, screen) =
            RustConnection::connect(Some(name)).with_context(|| format!("cannot open X display {name}"))?;
        Ok(Self::with(connection, screen))
    }

    /// Connects to display `number` on this machine with an explicit cookie.
    ///
    /// # Errors
    ///
    /// When there is none or it refuses.
    pub fn open_with_cookie(number: u32, cookie: &[u8]) -> Result<Self> {
        let stream = abstract_socket(number).with_context(|| format!("cannot reach X display :{number}"))?;
        let (stream, _) = DefaultStream::from_unix_stream(stream)
            .with_context(|| format!("cannot use the socket of X display :{number}"))?;
        let connection = RustConnection::connect_to_stream_with_auth_info(
            stream,
            0,
            b"MIT-MAGIC-COOKIE-1".to_vec(),
            cookie.to_vec(),
        )
        .with_context(|| format!("X display :{number} refuses"))?;
        Ok(Self::with(connection, 0))
    }

    /// Whether display `number` on this machine admits the caller by user, without a cookie.
    pub fn admits_this_user(number: u32) -> bool {
        let connect = || -> Result<()> {
            let (stream, _) = DefaultStream::from_unix_stream(abstract_socket(number)?)?;
            RustConnection::connect_to_stream_with_auth_info(stream, 0, Vec::new(), Vec::new())?;
            Ok(())
        };
        connect().is_ok()
    }

    /// Lets a user of this machine in without a cookie, as a login on an ordinary X desktop does for its user.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn admit_user(&self, uid: u32) -> Result<()> {
        let who = format!("localuser\0#{uid}");
        self.connection
            .change_hosts(HostMode::INSERT, Family::SERVER_INTERPRETED, who.as_bytes())?
            .check()
            .context("the X server does not admit its user")
    }

    /// Whether its windows can be pictured.
    ///
    /// # Errors
    ///
    /// When they cannot.
    pub fn check_pictures(&self) -> Result<()> {
        let depth = self.connection.get_geometry(self.root)?.reply()?.depth;
        let formats = &self.connection.setup().pixmap_formats;
        if !formats.iter().any(|format| format.depth == depth && format.bits_per_pixel == 32) {
            bail!("only screens of 32 bits per pixel can be pictured");
        }
        Ok(())
    }

    fn with(connection: RustConnection, screen: usize) -> Self {
        let root = connection.setup().roots[screen].root;
        Self { connection, root, ignored: Vec::new() }
    }

    /// The same display, blind to these windows and to what lies in them.
    #[must_use]
    pub fn ignoring(self, windows: Vec<u32>) -> Self {
        Self { ignored: windows, ..self }
    }

    /// Width and height of the screen.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn size(&self) -> Result<(u32, u32)> {
        let root = self.connection.get_geometry(self.root)?.reply()?;
        Ok((root.width.into(), root.height.into()))
    }

    /// Asks the window manager to bring a window before all others.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn raise(&self, window: u32) -> Result<()> {
        /// The source indication of a pager, which window managers obey.
        const PAGER: u32 = 2;
        let atom = self.connection.intern_atom(false, b"_NET_ACTIVE_WINDOW")?.reply()?.atom;
        let event = ClientMessageEvent::new(32, window, atom, [PAGER, 0, 0, 0, 0]);
        let mask = EventMask::SUBSTRUCTURE_REDIRECT | EventMask::SUBSTRUCTURE_NOTIFY;
        self.connection.send_event(false, self.root, mask, event)?.check()?;
        Ok(())
    }

    /// Whether a window manager serves this screen (`_NET_SUPPORTING_WM_CHECK` points to a living window).
    pub fn has_window_manager(&self) -> bool {
        let look = || -> Result<bool> {
            let atom = self.connection.intern_atom(false, b"_NET_SUPPORTING_WM_CHECK")?.reply()?.atom;
            let check =
                self.connection.get_property(false, self.root, atom, AtomEnum::WINDOW, 0, 1)?.reply()?;
            Ok(check.value32().and_then(|mut v| v.next()).is_some_and(|w| w != 0))
        };
        look().unwrap_or(false)
    }

    /// All visible windows with a class or a title, in no order.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn windows(&self) -> Result<Vec<Window>> {
        let mut found = Vec::new();
        let mut queue = vec![self.root];
        while let Some(parent) = queue.pop() {
            let Ok(tree) = self.connection.query_tree(parent)?.reply() else { continue };
            for child in tree.children.into_iter().filter(|child| !self.ignored.contains(child)) {
                // A window may vanish between two questions; that is not an error.
                if let Ok(Some(window)) = self.describe(child) {
                    if !window.class.is_empty() || !window.title.is_empty() {
                        found.push(window);
                    }
                    queue.push(child);
                }
            }
        }
        Ok(found)
    }

    fn describe(&self, id: XWindow) -> Result<Option<Window>> {
        let attributes = self.connection.get_window_attributes(id)?.reply()?;
        if attributes.map_state != MapState::VIEWABLE {
            return Ok(None);
        }
        let geometry = self.connection.get_geometry(id)?.reply()?;
        let place = self.connection.translate_coordinates(id, self.root, 0, 0)?.reply()?;
        let class = self.text(id, AtomEnum::WM_CLASS)?;
        Ok(Some(Window {
            id,
            class: class.trim_end_matches('\0').replace('\0', "."),
            title: self.text(id, AtomEnum::WM_NAME)?,
            area: Area {
                x: place.dst_x.into(),
                y: place.dst_y.into(),
                width: geometry.width.into(),
                height: geometry.height.into(),
            },
        }))
    }

    fn text(&self, id: XWindow, property: AtomEnum) -> Result<String> {
        let reply = self.connection.get_property(false, id, property, AtomEnum::ANY, 0, 256)?.reply()?;
        Ok(String::from_utf8_lossy(&reply.value).into_owned())
    }

    /// What a window shows at this moment; parts covered by other windows are undefined.
    ///
    /// # Errors
    ///
    /// When it is gone, not on the screen, or of a depth without 32 bits per pixel.
    pub fn picture(&self, window: u32) -> Result<Picture> {
        let geometry = self.connection.get_geometry(window)?.reply()?;
        let (width, height) = (geometry.width, geometry.height);
        let GetImageReply { data, .. } = self
            .connection
            .get_image(ImageFormat::Z_PIXMAP, window, 0, 0, width, height, u32::MAX)?
            .reply()
            .context("the window cannot be pictured")?;
        if data.len() != usize::from(width) * usize::from(height) * 4 {
            bail!("only screens of 32 bits per pixel can be pictured");
        }
        Ok(Picture::from_bgrx(width.into(), height.into(), &data))
    }

    /// What the whole screen shows.
    ///
    /// # Errors
    ///
    /// As [`picture`](Self::picture).
    pub fn screen(&self) -> Result<Picture> {
        self.picture(self.root)
    }
}

/// The server's abstract socket, else its file in the usual directory.
fn abstract_socket(number: u32) -> std::io::Result<std::os::unix::net::UnixStream> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixStream};
    let path = format!("/tmp/.X11-unix/X{number}");
    let address = SocketAddr::from_abstract_name(path.as_bytes())?;
    UnixStream::connect_addr(&address).or_else(|_| UnixStream::connect(Path::new(&path)))
}
