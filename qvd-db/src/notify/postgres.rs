//! The connection that listens to a server.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{sleep, timeout};

use super::{Channel, Signal};
use crate::server::Limits;

/// Listens until dropped. Every time the connection was lost and is there again, the subscriptions are told to rescan.
pub(super) async fn listen(
    options: Box<PgConnectOptions>,
    limits: Limits,
    mut asked: mpsc::UnboundedReceiver<Channel>,
    signals: broadcast::Sender<Signal>,
) {
    let mut channels: Vec<Channel> = Vec::new();
    let mut pause = SHORTEST_PAUSE;
    loop {
        match connect(&options, limits, &channels).await {
            Ok(listener) => {
                pause = SHORTEST_PAUSE;
                for channel in &channels {
                    let _ = signals.send(Signal::Confirmed(*channel));
                }
                let _ = signals.send(Signal::Rescan);
                match follow(listener, limits.answer, &mut channels, &mut asked, &signals).await {
                    Ended::HandleDropped => return,
                    Ended::Lost(error) => {
                        tracing::warn!(%error, "lost the connection that listens to the database")
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot listen to the database; polling goes on"),
        }
        // The last channel asked for while we were away is listened to after the next connect.
        tokio::select! {
            () = sleep(pause) => {}
            channel = asked.recv() => match channel {
                Some(channel) => remember(&mut channels, channel),
                None => return,
            },
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum Ended {
    HandleDropped,
    Lost(sqlx::Error),
}

async fn follow(
    mut listener: PgListener,
    answer: Duration,
    channels: &mut Vec<Channel>,
    asked: &mut mpsc::UnboundedReceiver<Channel>,
    signals: &broadcast::Sender<Signal>,
) -> Ended {
    loop {
        // A read that is dropped half way keeps what it has in the connection's buffer.
        tokio::select! {
            channel = asked.recv() => {
                let Some(channel) = channel else { return Ended::HandleDropped };
                if !channels.contains(&channel) {
                    remember(channels, channel);
                    match timeout(answer, listener.listen(&channel.name())).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return Ended::Lost(error),
                        Err(_) => return Ended::Lost(sqlx::Error::PoolTimedOut),
                    }
                }
                let _ = signals.send(Signal::Confirmed(channel));
            }
            received = listener.try_recv() => match received {
                Ok(Some(notice)) => {
                    if let Some(channel) = Channel::from_name(notice.channel()) {
                        let _ = signals.send(Signal::Notified(channel, notice.payload().into()));
                    }
                }
                Ok(None) => return Ended::Lost(sqlx::Error::PoolClosed),
                Err(error) => return Ended::Lost(error),
            },
            // A server that vanished without a word is noticed by asking.
            () = sleep(SILENCE) => {
                let asked = timeout(answer, sqlx::query("select 1").execute(&mut listener)).await;
                match asked {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return Ended::Lost(error),
                    Err(_) => return Ended::Lost(sqlx::Error::PoolTimedOut),
                }
            }
        }
    }
}

async fn connect(
    options: &PgConnectOptions,
    limits: Limits,
    channels: &[Channel],
) -> sqlx::Result<PgListener> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(limits.connect)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    // A silent reconnect would hide what was missed.
    listener.eager_reconnect(false);
    let names: Vec<String> = channels.iter().map(|channel| channel.name()).collect();
    let listening = timeout(limits.answer, listener.listen_all(names.iter().map(String::as_str))).await;
    listening.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
    Ok(listener)
}

fn remember(channels: &mut Vec<Channel>, channel: Channel) {
    if !channels.contains(&channel) {
        channels.push(channel);
    }
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After so long without a notice the server is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(30);
