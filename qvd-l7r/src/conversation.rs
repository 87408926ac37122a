//! One connection: requests in order, each answered, until the peer leaves or a desktop takes the stream over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use qvd_core::config::Config;
use qvd_core::error::chain;
use qvd_core::model::{Vm, VmRuntime};
use qvd_core::proto::upgrade;
use qvd_core::proto::vm_list::{self, Entry};
use qvd_core::{HostId, VmId};
use qvd_db::HostCounter;
use tokio::sync::watch;

use crate::abuse::Abuse;
use crate::auth::{self, Wish};
use crate::connect::{self, Connect};
use crate::error::Error;
use crate::farewell::{Leaving, Standing, sent_away};
use crate::front::{Channel, Incoming, Patience, Reply, Request, Route};
use crate::login::{Known, Login};
use crate::session::Session;
use crate::shared::Shared;
use crate::stop;
use crate::strangers::Stranger;
use crate::stream::ClientStream;

/// Serves a connection to its end, or until it has become a session. Idle connections end when `leaving` says so.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    stream: ClientStream,
    peer: SocketAddr,
    stranger: Stranger,
    leaving: watch::Receiver<Leaving>,
) -> Option<Session> {
    // Gone before a desktop is brought up: that keeps no password and no request.
    let (channel, connect) = Box::pin(converse(&shared, stream, peer, stranger, leaving)).await?;
    // On the heap too: a connection that nobody has greeted yet, or that is idle, is as large as it must be.
    Box::pin(connect::bring_up(shared, channel, connect)).await
}

/// Answers requests until the connection ends, or one asks for a desktop and may have it.
async fn converse(
    shared: &Arc<Shared>,
    stream: ClientStream,
    peer: SocketAddr,
    stranger: Stranger,
    mut leaving: watch::Receiver<Leaving>,
) -> Option<(Channel<ClientStream>, Connect)> {
    // Who was greeted behind the notice may still ask, and hears that the router is stopping.
    leaving.mark_unchanged();
    let mut channel = Channel::new(stream);
    let mut login = Login::new(peer, stranger);
    let mut standing = Standing::New;
    loop {
        let patience = patience(&shared.config(), login.is_known(), *leaving.borrow());
        let incoming = tokio::select! {
            biased;
            incoming = channel.next_request(patience) => incoming,
            () = sent_away(&mut leaving, standing) => break,
            () = shared.sessions.ended() => break,
        };
        let request = match incoming {
            Incoming::Request(request) => request,
            Incoming::Bad(error) => {
                shared.saw(Abuse::BadHead, peer, &error);
                channel.answer_last(&Reply::BadHead(error)).await;
                return None;
            }
            Incoming::Late => {
                shared.saw(Abuse::SlowHead, peer, &"its head is not complete");
                break;
            }
            Incoming::Gone => break,
        };
        shared.metrics.requests_total.add(1);
        login.answering();
        let mut exchange = Exchange { shared, login: &mut login, request: &request, peer };
        let reply = match exchange.route() {
            Ok(Route::Connect) => match unless_ended(shared, exchange.connect()).await {
                Ok(connect) => return Some((channel, connect)),
                Err(reply) => {
                    // Whatever refused a connect: some clients wait for the end of the connection.
                    channel.answer_last(&reply).await;
                    return None;
                }
            },
            Ok(Route::Ping) => shared.node.health(Instant::now()),
            Ok(Route::List) => unless_ended(shared, exchange.list()).await.unwrap_or_else(|refusal| refusal),
            Ok(Route::Stop) => match unless_ended(shared, exchange.stop()).await {
                Ok((vm, row)) => match stop::stop(shared, &mut channel, vm, &row).await {
                    Some(reply) => reply,
                    None => break,
                },
                Err(refusal) => refusal,
            },
            Ok(Route::Token) => {
                unless_ended(shared, exchange.token()).await.unwrap_or_else(|refusal| refusal)
            }
            Err(refusal) => refusal,
        };
        login.waiting();
        standing = if login.is_known() { Standing::Known } else { Standing::Passing };
        let last = reply.ends_connection() || request.close || leaving.borrow().sends_away(standing);
        if last {
            channel.answer_last(&reply).await;
            return None;
        }
        if channel.answer(&reply).await.is_err() {
            break;
        }
    }
    channel.close().await;
    None
}

fn patience(config: &Config, known: bool, leaving: Leaving) -> Patience {
    let idle = if known { "l7r.limit.authenticated.idle.timeout" } else { "l7r.limit.idle.timeout" };
    let most = if leaving == Leaving::ForGood { LATE } else { Duration::MAX };
    Patience {
        idle: config.seconds(idle).min(most),
        head: config.seconds("l7r.limit.head.timeout").min(most),
    }
}

/// Checks, a login's delay among them, do not outlast the sessions of a router that ends.
async fn unless_ended<T>(
    shared: &Shared,
    checks: impl Future<Output = Result<T, Reply>>,
) -> Result<T, Reply> {
    tokio::select! {
        biased;
        done = checks => done,
        () = shared.sessions.ended() => Err(Reply::ServerStopping),
    }
}

/// One request and the checks that its path wants.
struct Exchange<'a> {
    shared: &'a Arc<Shared>,
    login: &'a mut Login,
    request: &'a Request,
    peer: SocketAddr,
}

impl Exchange<'_> {
    fn route(&self) -> Result<Route, Reply> {
        if self.request.announces_body {
            return Err(Reply::BodyRefused);
        }
        let route = self.request.route.ok_or(Reply::NoRoute)?;
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(Reply::ServerStopping);
        }
        Ok(route)
    }

    /// What list, connect and stop have in common: the node is registered, the request counted, the user known,
    /// the node in service. In this order.
    async fn admit(&mut self) -> Result<(HostId, Known), Reply> {
        let view = self.shared.node.load(&self.shared.db).await?;
        let host = view.id()?;
        self.shared.counters.count(host, HostCounter::HttpRequests);
        let known = self.login.check(self.shared, host, self.request).await?;
        view.serves()?;
        Ok((host, known))
    }

    async fn list(&mut self) -> Result<Reply, Reply> {
        let (_, known) = self.admit().await?;
        self.shared.chain.before_list(&known.identity).await.map_err(|e| internal("list refused", &e))?;
        let own = self.shared.chain.list(&known.identity).await.map_err(|e| internal("no list", &e))?;
        let mut entries = match own {
            Some(ids) => self.named(&ids).await,
            None => self.owned(&known).await,
        }
        .map_err(|e| database_away("no list", &e))?;
        entries.retain(|entry| known.identity.is_for(VmId::new(entry.id)));
        entries.sort_by_key(|entry| entry.id);
        Ok(Reply::List(encode(entries)))
    }

    async fn owned(&self, known: &Known) -> Result<Vec<Entry>, qvd_db::Error> {
        let vms = self.shared.db.vms().of_user(known.user).await?;
        Ok(vms.iter().map(|(vm, row)| entry(vm, row)).collect())
    }

    async fn named(&self, ids: &[VmId]) -> Result<Vec<Entry>, qvd_db::Error> {
        let mut entries = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some((vm, row)) = self.shared.db.vms().load(*id).await? {
                entries.push(entry(&vm, &row));
            }
        }
        Ok(entries)
    }

    async fn connect(&mut self) -> Result<Connect, Reply> {
        let (router, known) = self.admit().await?;
        if !self.request.upgrade {
            return Err(Reply::UpgradeRequired);
        }
        let wanted = upgrade::connect_request(&self.request.query).map_err(Reply::BadParams)?;
        let (vm, row) = self.find(&wanted.id).await?;
        if row.blocked {
            return Err(Reply::VmBlocked);
        }
        self.allow(&known, &vm).await?;
        Ok(Connect {
            vm,
            row,
            user: known.user,
            identity: known.identity,
            params: wanted.params,
            router,
            peer: self.peer,
        })
    }

    async fn stop(&mut self) -> Result<(VmId, VmRuntime), Reply> {
        let (_, known) = self.admit().await?;
        let id = upgrade::stop_request(&self.request.query).map_err(Reply::BadParams)?;
        let (vm, row) = self.find(&id).await?;
        self.allow(&known, &vm).await?;
        Ok((vm.id, row))
    }

    /// For whoever showed more than a token; one that is to be for a single machine is for one that may be used.
    async fn token(&mut self) -> Result<Reply, Reply> {
        let (_, known) = self.admit().await?;
        if known.identity.is_delegated() {
            return Err(Reply::TokenForbidden);
        }
        let wanted = upgrade::token_request(&self.request.query);
        let vm = match &wanted.id {
            Some(id) => {
                let (vm, _) = self.find(id).await?;
                self.allow(&known, &vm).await?;
                Some(vm.id)
            }
            None => None,
        };
        let wish = Wish { vm, multi_use: wanted.multi_use };
        match auth::issue(&self.shared.db, &known.identity, known.user, wish).await {
            Ok(Some((token, lifetime))) => {
                tracing::info!(login = known.identity.login(), user = %known.user, vm = vm.map(tracing::field::display),
                    client = %self.peer, "token made");
                Ok(Reply::Token(token, lifetime))
            }
            Ok(None) => Err(Reply::Unauthorized),
            Err(Error::Database { source, .. }) => Err(database_away("no token", &source)),
            Err(error) => Err(internal("no token", &error)),
        }
    }

    /// A text that is no id names nothing.
    async fn find(&self, id: &str) -> Result<(Vm, VmRuntime), Reply> {
        let digits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        let id: VmId = id.parse().ok().filter(|_| digits).ok_or(Reply::NoVm)?;
        let found =
            self.shared.db.vms().load(id).await.map_err(|e| database_away("machine not loaded", &e))?;
        found.ok_or(Reply::NoVm)
    }

    async fn allow(&self, known: &Known, vm: &Vm) -> Result<(), Reply> {
        match self.shared.chain.allows(&known.identity, vm.id, vm.user_id).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Reply::VmForbidden),
            Err(error) => {
                tracing::error!(vm = %vm.id, "access undecided: {}", chain(&error));
                Err(Reply::LoginUndecided)
            }
        }
    }
}

fn entry(vm: &Vm, row: &VmRuntime) -> Entry {
    Entry::new(vm.id.get(), vm.name.clone(), row.vm_state, row.blocked)
}

/// As many machines as clients can receive.
fn encode(mut entries: Vec<Entry>) -> String {
    let all = entries.len();
    loop {
        match vm_list::encode(&entries) {
            Ok(json) => return json,
            Err(error) => {
                if entries.len() == all {
                    tracing::error!("the list is cut: {error}");
                }
                // Nine tenths at a time: a list of thousands is cut in a few rounds.
                entries.truncate(entries.len() * 9 / 10);
            }
        }
    }
}

fn internal(what: &str, error: &(dyn std::error::Error + 'static)) -> Reply {
    tracing::error!("{what}: {}", chain(error));
    Reply::Internal
}

fn database_away(what: &str, error: &qvd_db::Error) -> Reply {
    tracing::warn!("{what}: {}", chain(error));
    if error.is_retryable() { Reply::DatabaseAway } else { Reply::Internal }
}

/// How long a router that is on its way out waits for a request, once somebody is connected.
const LATE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::state::VmState;

    #[test]
    fn row_22_a_list_too_long_is_cut_not_refused() {
        let many = (0..2000).map(|i| Entry::new(i, "machine", VmState::Running, false)).collect();
        let json = encode(many);
        assert!(json.len() < vm_list::MAX_BODY && json.len() > vm_list::MAX_BODY / 2, "{}", json.len());
        assert!(json.starts_with("[{\"id\":0,") && json.ends_with("}]"));
    }
}
