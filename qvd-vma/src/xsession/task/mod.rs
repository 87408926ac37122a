//! The shell around the machine: one task that owns it, its inbox, and the effects in flight.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use qvd_core::hook::HookKind;
use qvd_core::state::XState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::installed;
use super::machine::Machine;
use super::output::Line;
use super::prepare::{Context, Prepared, Request, Seat, Step, action_pairs, text_of};
use super::session_files;

mod shell;
mod told;

use shell::Shell;

/// The X session of this machine, as its callers use it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct XSession {
    context: Arc<Context>,
    inbox: mpsc::Sender<Message>,
    view: watch::Receiver<View>,
}

/// What can be seen of the session at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its state.
    pub state: XState,
    /// Its display, while there is an agent.
    pub seat: Option<Seat>,
    /// Why the last session or start came to nothing, for people; kept until the next desktop has
    /// been connected to.
    pub failure: Option<String>,
}

/// The task of the session; ends when every [`XSession`] is dropped.
#[derive(Debug)]
pub struct SessionTask(JoinHandle<()>);

impl XSession {
    /// Starts the task. It must run on a tokio runtime.
    pub fn spawn(context: Arc<Context>) -> (Self, SessionTask) {
        let (sender, inbox) = mpsc::channel(64);
        let first = View { state: XState::Stopped, seat: None, failure: None };
        let (publish, view) = watch::channel(first);
        let machine = Machine::new(context.settings.limits);
        let shell = Shell::new(machine, Arc::clone(&context), sender.downgrade(), publish);
        let task = tokio::spawn(shell.run(inbox));
        (Self { context, inbox: sender, view }, SessionTask(task))
    }

    /// What can be seen now.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Starts or resumes the session.
    ///
    /// # Errors
    ///
    /// The text for the caller when it is not possible now, nxagent is missing or a hook refused.
    pub async fn start(&self, properties: &[(String, String)]) -> Result<(), String> {
        let request = Request::new(properties, &self.context.settings).map_err(|e| e.to_string())?;
        if self.view().seat.is_none()
            && let Some(complaint) = installed::complaint(&self.context.settings.nxagent)
        {
            return Err(complaint);
        }
        let (answer, answered) = oneshot::channel();
        self.send(Message::Start(Box::new(request), answer)).await;
        answered.await.unwrap_or_else(|_| Err(ENDING.to_owned()))
    }

    /// Suspends the session if somebody looks at it or is expected; whether anything was done, else the state.
    ///
    /// # Errors
    ///
    /// The text for the caller when the hook refused.
    pub async fn suspend(&self) -> Result<Result<(), XState>, String> {
        let state = self.view().state;
        if matches!(state, XState::Listening | XState::Connected) {
            self.action_hook(HookKind::Suspend, state, "suspend").await?;
        }
        // In every state: what has not come up yet is called off.
        Ok(self.ask(Message::Suspend).await)
    }

    /// Ends the session; whether anything was done, else the state.
    ///
    /// # Errors
    ///
    /// The text for the caller when the hook refused.
    pub async fn stop(&self) -> Result<Result<(), XState>, String> {
        let view = self.view();
        if view.seat.is_some() && view.state != XState::Stopping {
            self.action_hook(HookKind::Stop, view.state, "stop").await?;
        }
        Ok(self.ask(Message::Stop).await)
    }

    /// Ends the session whatever its hook says, and waits until nothing of it is left.
    pub async fn shut_down(mut self, task: SessionTask) {
        if let Err(error) = self.stop().await {
            tracing::warn!(error, "stop hook failed; the session ends all the same");
            let _ = self.ask(Message::Stop).await;
        }
        let limit = self.context.settings.limits.stopping * 2 + Duration::from_secs(5);
        let stopped = self.view.wait_for(|view| view.state == XState::Stopped);
        if tokio::time::timeout(limit, stopped).await.is_err() {
            tracing::error!("the X agent cannot be ended");
        }
        drop(self.inbox);
        if tokio::time::timeout(LAST_STEPS, task.0).await.is_err() {
            tracing::warn!("the X session task did not end in time");
        }
    }

    async fn action_hook(&self, kind: HookKind, state: XState, action: &str) -> Result<(), String> {
        let pairs = action_pairs(&[], state.as_str(), action);
        self.context.hooks.run(kind, &pairs).await.map_err(|error| text_of(&error))
    }

    async fn ask(&self, message: fn(oneshot::Sender<bool>) -> Message) -> Result<(), XState> {
        let (answer, answered) = oneshot::channel();
        self.send(message(answer)).await;
        if answered.await.unwrap_or(false) { Ok(()) } else { Err(self.view().state) }
    }

    async fn send(&self, message: Message) {
        // The task lives as long as this handle; were it gone, the dropped answer tells.
        if self.inbox.send(message).await.is_err() {
            tracing::error!("the X session task is gone");
        }
    }
}

#[derive(Debug)]
enum Message {
    Start(Box<Request>, oneshot::Sender<Result<(), String>>),
    Suspend(oneshot::Sender<bool>),
    Stop(oneshot::Sender<bool>),
    Effect(u64, Outcome),
    Agent(u64, Line),
    AgentGone(u64, ExitStatus, String),
    DesktopEnded(u64, Option<ExitStatus>, Duration),
}

/// What an effect reports.
#[derive(Debug)]
enum Outcome {
    Step(Step),
    Consulted(Result<(), String>),
    Started(Result<Box<Prepared>, String>),
    ConnectHook(Result<(), String>),
}

/// Name of the file with the agent's process id, in the run directory.
pub(crate) const PID_FILE: &str = "nxagent.pid";

/// Name of the file with the state, in the run directory.
pub(crate) const STATE_FILE: &str = "nxagent.state";

/// How long the desktop's processes are waited for at the very end.
const LAST_STEPS: Duration = Duration::from_secs(10);

const ENDING: &str = "the agent is ending";

/// Printing program and hook of a state that was entered.
pub(crate) fn run_state_hooks(context: &Context, kind: HookKind, request: Option<&Request>, state: XState) {
    let settings = &context.settings;
    let mut printing = request.map_or_else(Vec::new, |request| {
        session_files::printing_pairs(&request.properties, settings.options.printing, settings.display)
    });
    printing.push(("qvd.hook.on_printing".to_owned(), state.to_string()));
    context.hooks.start_printing(kind, printing);
    context.hooks.start(kind, vec![("qvd.hook.on_state".to_owned(), state.to_string())]);
}
