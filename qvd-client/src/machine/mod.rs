//! The handshake, from the first byte to the desktop's stream: a pure value.
//!
//! ```text
//!  Idle ──Begin──▸ Dialling(List) ──Dialled──▸ Waiting(List) ──200──▸ Choosing ──Chosen──▸ Waiting(Connect)
//!                                                  │                   │  ▴                │
//!                                                  │ goal: list        └──┘ Closed         ├─102─▸ (told on)
//!                                                  ▾                  (dials again later)  ├─101─▸ Done: switched
//!                                                 Done                                     └─4xx, 5xx─▸ Done: failed
//! ```
//!
//! With `restart_first`, a `Waiting(Stop)` comes between `Choosing` and `Waiting(Connect)`. A request that is sent on
//! a connection which the server gave up meanwhile is sent once more on a new one. The machine owns no socket and reads
//! no clock; [`crate::connect`] does what its actions say.

mod answer;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use qvd_core::Secret;
use qvd_core::proto::http1::{Limits, encode_head, parse_response};
use qvd_core::proto::upgrade::{INFO_HEADER, PROTOCOL, SLAVE_KEY_HEADER, path};
use qvd_core::proto::{query, vm_list};

use crate::error::Error;
use crate::list::Entry;
use crate::progress::Progress;

/// What one run of the machine is for, and what each of its requests carries.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Server and port, for messages.
    pub server: String,
    /// Value of the `Authorization` header.
    pub authorization: Secret<String>,
    /// Value of the `User-Agent` header.
    pub user_agent: String,
    /// Further headers of every request (shared environment).
    pub headers: Vec<(String, String)>,
    /// What to reach.
    pub goal: Goal,
    /// How long the server may take.
    pub patience: Patience,
}

/// What to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The list only.
    List,
    /// A desktop.
    Connect {
        /// Parameters of the request, without the id.
        parameters: Vec<(String, String)>,
        /// Whether the virtual machine is stopped first.
        restart_first: bool,
    },
}

/// Limits on the server's silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From the request for the list to its end.
    pub list: Duration,
    /// From a stop or connect request to its final answer.
    pub connect: Duration,
}

impl Default for Patience {
    /// 60 s for the list; 600 s for a connect, in which a router may wait for a virtual machine to boot.
    fn default() -> Self {
        Self { list: Duration::from_secs(60), connect: Duration::from_secs(600) }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// Start.
    Begin,
    /// The connection that was asked for stands, its certificate accepted.
    Dialled,
    /// It does not.
    DialFailed(Error),
    /// Bytes came.
    Received(Vec<u8>),
    /// The server closed the connection, or it broke.
    Closed(Option<std::io::Error>),
    /// A virtual machine was chosen.
    Chosen(i64),
    /// None was.
    NotChosen(Error),
    /// The time that [`Machine::deadline`] named has come.
    Deadline,
}

/// What to do.
#[derive(Debug)]
pub enum Action {
    /// Open a connection, closing the present one if there is any; answer with `Dialled` or `DialFailed`.
    Dial,
    /// Send these bytes.
    Send(Secret<Vec<u8>>),
    /// Have one of these chosen; answer with `Chosen` or `NotChosen`.
    Choose(Vec<Entry>),
    /// Tell who waits.
    Tell(Progress),
    /// The end; nothing follows.
    Finish(Outcome),
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome {
    /// The goal was the list.
    Listed(Vec<Entry>),
    /// The connection is the desktop's stream now.
    Switched {
        /// Virtual machine.
        vm: i64,
        /// Key of the slave channel; early servers send none.
        slave_key: Option<Secret<String>>,
        /// Bytes of the stream that came with the answer.
        early: Vec<u8>,
    },
    /// No list, no desktop.
    Failed(Error),
}

/// A request of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    List,
    Stop(i64),
    Connect(i64),
}

impl Request {
    const fn name(self) -> &'static str {
        match self {
            Self::List => "list_of_vm",
            Self::Stop(_) => "stop_vm",
            Self::Connect(_) => "connect_to_vm",
        }
    }

    const fn doing(self) -> &'static str {
        match self {
            Self::List => "logging in",
            Self::Stop(_) => "stopping the virtual machine",
            Self::Connect(_) => "connecting",
        }
    }
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// A connection is being opened for this request.
    Dialling(Request),
    /// The request was sent.
    Waiting(Request),
    /// The list is with whoever chooses.
    Choosing {
        connected: bool,
    },
    Done,
}

/// The handshake.
#[derive(Debug)]
pub struct Machine {
    plan: Plan,
    phase: Phase,
    buffer: Vec<u8>,
    deadline: Option<Instant>,
    /// The present request went out on a connection that had been idle, and nothing came back yet.
    may_be_stale: bool,
    last_told: Option<String>,
}

/// Largest answer that is read; a server's list for old clients stays below 65,000 bytes.
const MAX_ANSWER: usize = 1 << 20;

impl Machine {
    /// A machine that waits for [`Event::Begin`].
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            phase: Phase::Idle,
            buffer: Vec::new(),
            deadline: None,
            may_be_stale: false,
            last_told: None,
        }
    }

    /// When to feed [`Event::Deadline`], unless something else comes first.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether it has ended.
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// Takes in what happened and says what to do.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match (&self.phase, event) {
            (Phase::Done, _) => Vec::new(),
            (Phase::Idle, Event::Begin) => self.dial(Request::List),
            (Phase::Dialling(request), Event::Dialled) => self.send(*request, now),
            (Phase::Dialling(_), Event::DialFailed(error)) => self.fail(error),
            (Phase::Waiting(request), Event::Received(bytes)) => {
                let request = *request;
                self.may_be_stale = false;
                self.buffer.extend_from_slice(&bytes);
                self.read(request, false, now)
            }
            (Phase::Waiting(request), Event::Closed(source)) => self.hung_up(*request, source, now),
            (Phase::Waiting(request), Event::Deadline) => self.out_of_time(*request),
            (Phase::Choosing { connected }, Event::Chosen(vm)) => {
                let connected = *connected;
                self.chosen(vm, connected, now)
            }
            (Phase::Choosing { .. }, Event::NotChosen(error)) => self.fail(error),
            (Phase::Choosing { .. }, Event::Closed(_)) => {
                self.phase = Phase::Choosing { connected: false };
                Vec::new()
            }
            (Phase::Choosing { .. }, Event::Received(_)) => {
                // Nothing was asked, so this is no answer to anything: ask again on a clean connection.
                self.phase = Phase::Choosing { connected: false };
                Vec::new()
            }
            // Late news of a connection that is being replaced, and answers to questions nobody asked.
            (
                Phase::Idle,
                Event::Dialled
                | Event::DialFailed(_)
                | Event::Received(_)
                | Event::Closed(_)
                | Event::Chosen(_)
                | Event::NotChosen(_)
                | Event::Deadline,
            )
            | (
                Phase::Dialling(_),
                Event::Begin
                | Event::Received(_)
                | Event::Closed(_)
                | Event::Chosen(_)
                | Event::NotChosen(_)
                | Event::Deadline,
            )
            | (
                Phase::Waiting(_),
                Event::Begin | Event::Dialled | Event::DialFailed(_) | Event::Chosen(_) | Event::NotChosen(_),
            )
            | (
                Phase::Choosing { .. },
                Event::Begin | Event::Dialled | Event::DialFailed(_) | Event::Deadline,
            ) => Vec::new(),
        }
    }

    fn dial(&mut self, request: Request) -> Vec<Action> {
        self.phase = Phase::Dialling(request);
        self.buffer.clear();
        self.deadline = None;
        vec![Action::Tell(Progress::Dialling(self.plan.server.clone())), Action::Dial]
    }

    fn send(&mut self, request: Request, now: Instant) -> Vec<Action> {
        self.phase = Phase::Waiting(request);
        self.buffer.clear();
        self.may_be_stale = false;
        let (limit, told) = match request {
            Request::List => (self.plan.patience.list, Progress::LoggingIn),
            Request::Stop(vm) => (self.plan.patience.connect, Progress::Stopping(vm)),
            Request::Connect(vm) => (self.plan.patience.connect, Progress::Connecting(vm)),
        };
        self.deadline = Some(now + limit);
        vec![Action::Tell(told), Action::Send(self.request_bytes(request))]
    }

    fn chosen(&mut self, vm: i64, connected: bool, now: Instant) -> Vec<Action> {
        let request = match &self.plan.goal {
            Goal::Connect { restart_first: true, .. } => Request::Stop(vm),
            Goal::Connect { restart_first: false, .. } | Goal::List => Request::Connect(vm),
        };
        if !connected {
            return self.dial(request);
        }
        let actions = self.send(request, now);
        self.may_be_stale = true;
        actions
    }

    /// Reads as many answers as the buffer holds; `ended` when nothing will follow.
    fn read(&mut self, request: Request, ended: bool, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        loop {
            let (head, used) = match parse_response(&self.buffer, &Limits::default()) {
                Ok(Some(found)) => found,
                Ok(None) => return actions,
                Err(error) => {
                    actions.extend(self.not_understood(request, error.to_string()));
                    return actions;
                }
            };
            match (head.code, request) {
                (101, Request::Connect(vm)) => {
                    let early = self.buffer.split_off(used);
                    let slave_key =
                        head.headers.get_str(SLAVE_KEY_HEADER).map(|key| Secret::new(key.to_owned()));
                    self.end();
                    actions.push(Action::Tell(Progress::Switched));
                    actions.push(Action::Finish(Outcome::Switched { vm, slave_key, early }));
                    return actions;
                }
                (101, Request::List | Request::Stop(_)) => {
                    actions.extend(self.not_understood(request, "it switches protocols unasked".to_owned()));
                    return actions;
                }
                (100..=199, _) => {
                    self.buffer.drain(..used);
                    actions.extend(head.headers.get_str(INFO_HEADER).and_then(|text| self.tell(text)));
                }
                _ => {
                    actions.extend(self.final_answer(request, &head, used, ended, now));
                    return actions;
                }
            }
        }
    }

    fn final_answer(
        &mut self,
        request: Request,
        head: &qvd_core::proto::http1::ResponseHead,
        used: usize,
        ended: bool,
        now: Instant,
    ) -> Vec<Action> {
        let length = match head.content_length() {
            Ok(length) if length <= MAX_ANSWER => length,
            Ok(length) => return self.not_understood(request, format!("its body has {length} bytes")),
            Err(error) => return self.not_understood(request, error.to_string()),
        };
        let available = self.buffer.len() - used;
        if available < length && !ended {
            return Vec::new();
        }
        let rest = self.buffer.split_off(used);
        let body = &rest[..length.min(available)];
        match (request, head.code) {
            (Request::List, 200) => self.listed(body),
            (Request::Stop(vm), 200) => self.send(Request::Connect(vm), now),
            (request, _) => {
                self.fail(answer::refusal(request == Request::List, &self.plan.server, head, body))
            }
        }
    }

    fn listed(&mut self, body: &[u8]) -> Vec<Action> {
        let entries = match vm_list::decode(body) {
            Ok(entries) => entries,
            Err(error) => return self.not_understood(Request::List, error.to_string()),
        };
        self.deadline = None;
        let told = Action::Tell(Progress::Listed(entries.len()));
        match self.plan.goal {
            Goal::List => {
                self.end();
                vec![told, Action::Finish(Outcome::Listed(entries))]
            }
            Goal::Connect { .. } if entries.is_empty() => {
                let mut actions = vec![told];
                actions.extend(self.fail(Error::NoVms));
                actions
            }
            Goal::Connect { .. } => {
                self.phase = Phase::Choosing { connected: true };
                vec![told, Action::Choose(entries)]
            }
        }
    }

    fn hung_up(&mut self, request: Request, source: Option<std::io::Error>, now: Instant) -> Vec<Action> {
        if self.may_be_stale {
            return self.dial(request);
        }
        let mut actions = self.read(request, true, now);
        if matches!(&self.phase, Phase::Waiting(still) if *still == request) {
            let during = request.doing();
            actions.extend(self.fail(match source {
                Some(source) => Error::Broken { during, source },
                None => Error::Closed { during },
            }));
        } else if let Phase::Waiting(next) = self.phase {
            // The answer came, and then the end: the next request needs a new connection.
            actions.clear();
            actions.extend(self.dial(next));
        }
        actions
    }

    fn out_of_time(&mut self, request: Request) -> Vec<Action> {
        let after = match request {
            Request::List => self.plan.patience.list,
            Request::Stop(_) | Request::Connect(_) => self.plan.patience.connect,
        };
        self.fail(Error::TimedOut { during: request.doing(), after })
    }

    fn not_understood(&mut self, request: Request, problem: String) -> Vec<Action> {
        self.fail(Error::Protocol { request: request.name(), problem })
    }

    fn end(&mut self) {
        self.phase = Phase::Done;
        self.deadline = None;
    }

    fn fail(&mut self, error: Error) -> Vec<Action> {
        self.end();
        vec![Action::Finish(Outcome::Failed(error))]
    }

    /// Passes a server's word on, unless it was the last one anyway.
    fn tell(&mut self, text: &str) -> Option<Action> {
        let text = crate::list::printable(text);
        if self.last_told.as_deref() == Some(&text) {
            return None;
        }
        self.last_told = Some(text.clone());
        Some(Action::Tell(Progress::Server(text)))
    }

    fn request_bytes(&self, request: Request) -> Secret<Vec<u8>> {
        let target = match request {
            Request::List => format!("{}?", path::LIST),
            Request::Stop(vm) => format!("{}?id={vm}", path::STOP),
            Request::Connect(vm) => {
                let parameters = match &self.plan.goal {
                    Goal::Connect { parameters, .. } => parameters.as_slice(),
                    Goal::List => &[],
                };
                let id = vm.to_string();
                let pairs = [("id", id.as_str())];
                let further = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                format!("{}?{}", path::CONNECT, query::encode(pairs.into_iter().chain(further)))
            }
        };
        let mut headers = vec![("Authorization", self.plan.authorization.expose().as_str())];
        match request {
            Request::List => headers.push(("Accept", "application/json")),
            Request::Stop(_) | Request::Connect(_) => {
                headers.extend([("Connection", "Upgrade"), ("Upgrade", PROTOCOL)]);
            }
        }
        headers.push(("User-Agent", &self.plan.user_agent));
        headers.extend(self.plan.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        Secret::new(encode_head(&format!("GET {target} HTTP/1.1"), &headers).into_bytes())
    }
}
