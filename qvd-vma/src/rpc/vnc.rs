//! `vnc_connect`: the connection becomes that of a VNC server on the session's display.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use qvd_core::proto::http1::{self, RequestHead};
use qvd_core::state::XState;
use tokio::io::AsyncWriteExt;

use super::connection::{Stream, TEXT, respond};
use super::methods::Methods;
use crate::log_file;
use crate::xsession::prepare::Seat;
use crate::xsession::user_command::UserCommand;

pub(super) async fn serve(mut stream: Stream, head: &RequestHead, methods: &Methods) {
    let upgrade = head.headers.has_token("Connection", "Upgrade") && head.headers.has_token("Upgrade", "VNC");
    let served = if upgrade { upgraded(stream, methods).await } else { refuse_plain(&mut stream).await };
    if let Err(error) = served {
        tracing::warn!(%error, "VNC view failed");
    }
}

async fn refuse_plain(stream: &mut Stream) -> io::Result<()> {
    respond(stream, 426, TEXT, "vnc_connect needs an upgrade to VNC\n").await
}

async fn upgraded(mut stream: Stream, methods: &Methods) -> io::Result<()> {
    let starting = [("X-QVD-VMA-Info", "Starting VNC service")];
    let progress = http1::encode_head(&http1::status_line(102), &starting);
    stream.write_all(progress.as_bytes()).await?;
    let view = methods.session.view();
    let refusal = match (view.state, view.seat) {
        (XState::Connected | XState::Suspended, Some(seat)) => match program(methods) {
            Ok(()) => return run(stream, &seat, methods).await,
            Err(text) => text,
        },
        (XState::Connected | XState::Suspended, None) => "nxagent is not running".to_owned(),
        (state, _) => format!("Unable to start VNC service while session is in state {state}"),
    };
    respond(&mut stream, 503, TEXT, &refusal).await
}

fn program(methods: &Methods) -> Result<(), String> {
    let settings = &methods.context.settings;
    let name = settings.x11vnc.first().map_or("", String::as_str);
    match crate::xsession::desktop::find_in(&settings.search_path, name) {
        Some(_) => Ok(()),
        None => Err(format!("VNC server '{name}' is not installed")),
    }
}

/// Hands the connection to the VNC server as its standard input and output, and waits for its end.
async fn run(mut stream: Stream, seat: &Seat, methods: &Methods) -> io::Result<()> {
    let switching =
        http1::encode_head(&http1::status_line(101), &[("Connection", "Upgrade"), ("Upgrade", "VNC")]);
    stream.write_all(switching.as_bytes()).await?;
    let socket = blocking(stream)?;
    let settings = &methods.context.settings;
    let mut words = settings.x11vnc.clone();
    words.extend(["-display".to_owned(), format!(":{}", seat.display), "-inetd".to_owned()]);
    let user = UserCommand::new(&seat.account, words, &seat.environment, None, &settings.own_program);
    let log = log_file::bounded(&settings.log_dir.join("qvd-x11vnc.log"))?;
    let mut server = user.command().ok_or(io::ErrorKind::NotFound)?;
    server.stderr(log).kill_on_drop(true);
    let mut server = server.stdin(Stdio::from(socket.try_clone()?)).stdout(Stdio::from(socket)).spawn()?;
    server.wait().await.map(drop)
}

fn blocking(stream: Stream) -> io::Result<OwnedFd> {
    Ok(match stream {
        Stream::Tcp(stream) => {
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            stream.into()
        }
        Stream::Unix(stream) => {
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            stream.into()
        }
    })
}
