//! The task itself: feeds the machine and carries out what it decides.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use qvd_core::hook::HookKind;
use qvd_core::state::XState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{ENDING, Message, Outcome, STATE_FILE, View, run_state_hooks, told};
use crate::process_group::{Identity, describe};
use crate::xsession::desktop::RunningDesktop;
use crate::xsession::machine::{Action, Event, Failure, Machine, Phase, StartAnswer};
use crate::xsession::nxagent::{AgentEvent, RunningAgent};
use crate::xsession::output::{Line, Report};
use crate::xsession::prepare::{Context, Prepared, Request, Step, text_of};
use crate::xsession::session_files;
use crate::xsession::user_command::UserCommand;

/// The task's state.
#[derive(Debug)]
pub(super) struct Shell {
    machine: Machine,
    context: Arc<Context>,
    messages: mpsc::WeakSender<Message>,
    publish: watch::Sender<View>,
    /// What this session was asked with last.
    request: Option<Request>,
    /// The caller whose start is being stepped right now.
    asking: Option<oneshot::Sender<Result<(), String>>>,
    /// The caller whose start has begun and is not answered.
    waiting: Option<oneshot::Sender<Result<(), String>>>,
    suspend_asked: Option<oneshot::Sender<bool>>,
    stop_asked: Option<oneshot::Sender<bool>>,
    effect: Option<JoinHandle<()>>,
    /// Number of the effect whose reports count.
    effects: u64,
    agent: Option<Identity>,
    /// Number of the agent whose words count.
    agents: u64,
    deaths: u64,
    /// How the agent that is gone ended, and its last complaint.
    ending: Option<(ExitStatus, String)>,
    /// That end is a launcher's, and says nothing about the agent.
    launched: bool,
    /// What is to run on the display once somebody looks at it.
    commands: Vec<UserCommand>,
    desktop: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    ended_desktops: Vec<JoinHandle<()>>,
}

impl Shell {
    pub(super) fn new(
        machine: Machine,
        context: Arc<Context>,
        messages: mpsc::WeakSender<Message>,
        publish: watch::Sender<View>,
    ) -> Self {
        Self {
            machine,
            context,
            messages,
            publish,
            request: None,
            asking: None,
            waiting: None,
            suspend_asked: None,
            stop_asked: None,
            effect: None,
            effects: 0,
            agent: None,
            agents: 0,
            deaths: 0,
            ending: None,
            launched: false,
            commands: Vec::new(),
            desktop: None,
            ended_desktops: Vec::new(),
        }
    }

    /// Runs until nobody can send a message any more; then ends what is left.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        loop {
            let deadline = self.machine.deadline().map(Instant::from_std);
            let message = tokio::select! {
                message = inbox.recv() => message,
                () = sleep_until(deadline) => {
                    self.step(Event::Deadline);
                    continue;
                }
            };
            match message {
                Some(message) => self.take(message),
                None => break,
            }
        }
        self.cancel_effect();
        self.end_desktop();
        for desktop in self.ended_desktops {
            // A panic in there has been reported by the runtime.
            drop(desktop.await);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Start(request, answer) => self.start_asked(*request, answer),
            Message::Suspend(answer) => {
                self.suspend_asked = Some(answer);
                self.step(Event::SuspendAsked);
            }
            Message::Stop(answer) => {
                self.stop_asked = Some(answer);
                self.step(Event::StopAsked);
            }
            Message::Effect(number, outcome) if number == self.effects => self.effect_reported(outcome),
            Message::Agent(number, line) if number == self.agents => self.agent_said(line),
            Message::AgentGone(number, status, last_words) if number == self.agents => {
                self.agent = None;
                self.ending = Some((status, last_words));
                self.step(Event::AgentGone);
            }
            Message::DesktopEnded(number, status, lived) if number == self.agents => {
                self.desktop_ended(status, lived);
            }
            // Of an effect that was cancelled, or an agent that has been replaced.
            Message::Effect(..) | Message::Agent(..) | Message::AgentGone(..) | Message::DesktopEnded(..) => {
            }
        }
    }

    fn start_asked(&mut self, request: Request, answer: oneshot::Sender<Result<(), String>>) {
        let before = self.request.replace(request);
        self.asking = Some(answer);
        self.step(Event::StartAsked);
        match self.asking.take() {
            Some(asking) => self.waiting = Some(asking),
            // Refused: the session goes on with what it was asked for first.
            None => self.request = before,
        }
    }

    fn effect_reported(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Step(Step::Provisioning) => self.step(Event::ProvisioningBegan),
            Outcome::Step(Step::Launching) => self.step(Event::LaunchBegan),
            Outcome::Consulted(Ok(())) => self.step(Event::Consulted),
            Outcome::Consulted(Err(text)) => self.failed(Event::ConsultFailed, text),
            Outcome::Started(Ok(prepared)) => {
                self.adopt(prepared);
                self.step(Event::Launched);
            }
            Outcome::Started(Err(text)) => {
                tracing::error!(error = text, "unable to start the X session");
                self.failed(Event::LaunchFailed, text);
            }
            Outcome::ConnectHook(Ok(())) => self.step(Event::ConnectHookPassed),
            Outcome::ConnectHook(Err(text)) => self.failed(Event::ConnectHookFailed, text),
        }
    }

    fn failed(&mut self, event: Event, text: String) {
        self.keep_failure(Some(text));
        self.step(event);
    }

    fn agent_said(&mut self, line: Line) {
        match line {
            Line::Report(report) => {
                tracing::debug!(?report, "agent");
                if report == Report::Waiting {
                    self.context.open_to_group();
                }
                self.step(Event::Output(report));
            }
            Line::SlavePort(port) => tracing::debug!(port, "slave channel is open"),
            Line::MediaPort(port) => tracing::debug!(port, "audio channel is open"),
            Line::Pid(_) | Line::DisplayTaken => {}
        }
    }

    fn desktop_ended(&mut self, status: Option<ExitStatus>, lived: Duration) {
        let how = status.map_or_else(|| "lost".to_owned(), describe);
        tracing::info!(how, "the desktop ended");
        if lived < AT_ONCE && !status.is_some_and(|s| s.success()) {
            let log = self.context.settings.log_dir.join("qvd-session.log");
            let text = format!("the desktop program ended at once ({how}), see {}", log.display());
            self.keep_failure(Some(text));
        }
        self.step(Event::SessionEnded);
    }

    fn step(&mut self, event: Event) {
        let before = self.machine.phase();
        let actions = self.machine.step(event, Instant::now().into_std());
        let after = self.machine.phase();
        if before != after {
            tracing::info!(from = %before, to = %after, ?event, "X session");
        }
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Publish(state) => self.published(state),
            Action::Consult { resume } => self.consult(resume),
            Action::Prepare => self.prepare(),
            Action::RunConnectHook => self.connect_hook(),
            Action::CancelEffect => self.cancel_effect(),
            Action::Hup => self.signal(Signal::SIGHUP),
            Action::Term => self.signal(Signal::SIGTERM),
            Action::Kill => self.signal(Signal::SIGKILL),
            Action::StartSession => self.start_desktop(),
            Action::EndSession => self.end_desktop(),
            Action::Cleanup => self.clean_up(),
            Action::RecordFailure(phase, failure) => self.record(phase, failure),
            Action::AnswerStart(answer) => self.answer(answer),
            Action::AnswerSuspend(acted) => answer(&mut self.suspend_asked, acted),
            Action::AnswerStop(acted) => answer(&mut self.stop_asked, acted),
        }
    }

    fn published(&mut self, state: XState) {
        self.publish.send_modify(|view| {
            view.state = state;
            if state == XState::Connected {
                view.failure = None;
            }
        });
        self.write_state(state);
        let kind = match state {
            XState::Connected => HookKind::Connected,
            XState::Suspended => HookKind::Suspended,
            XState::Stopped => HookKind::Disconnected,
            XState::Starting
            | XState::Provisioning
            | XState::Listening
            | XState::Suspending
            | XState::Stopping => return,
        };
        run_state_hooks(&self.context, kind, self.request.as_ref(), state);
    }

    /// For people and tools that look into the run directory; nothing here reads it.
    fn write_state(&self, state: XState) {
        let path = self.context.settings.run_dir.join(STATE_FILE);
        if state == XState::Stopped {
            session_files::remove(&path);
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if let Err(error) = session_files::write(&path, format!("{state}:{now}\n").as_bytes(), 0o644, None) {
            tracing::warn!(path = %path.display(), %error, "cannot write the state file");
        }
    }

    fn consult(&mut self, resume: bool) {
        let (context, request) = (Arc::clone(&self.context), self.request.clone());
        let seat = self.publish.borrow().seat.clone().filter(|_| resume);
        self.spawn_effect(|_| async move {
            let Some(request) = request else { return Outcome::Consulted(Err(ENDING.to_owned())) };
            let consulted = context.consult(&request, seat.as_ref()).await;
            Outcome::Consulted(consulted.map_err(|error| text_of(&error)))
        });
    }

    fn prepare(&mut self) {
        let (context, request) = (Arc::clone(&self.context), self.request.clone());
        self.spawn_effect(|report| async move {
            let Some(request) = request else { return Outcome::Started(Err(ENDING.to_owned())) };
            let started = context.start(&request, |step| report(Outcome::Step(step))).await;
            Outcome::Started(started.map(Box::new).map_err(|error| text_of(&error)))
        });
    }

    fn connect_hook(&mut self) {
        let (context, request) = (Arc::clone(&self.context), self.request.clone());
        self.spawn_effect(|_| async move {
            let Some(request) = request else { return Outcome::ConnectHook(Err(ENDING.to_owned())) };
            Outcome::ConnectHook(context.connect_hook(&request).await.map_err(|error| text_of(&error)))
        });
    }

    /// Runs an effect beside the shell; it replaces the one before.
    fn spawn_effect<F>(&mut self, effect: impl FnOnce(Reporter) -> F)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.cancel_effect();
        let number = self.effects;
        let messages = self.messages.clone();
        let steps = messages.clone();
        let effect = effect(Box::new(move |outcome| {
            // The inbox holds far more than the two steps that an effect can report.
            if let Some(steps) = steps.upgrade() {
                drop(steps.try_send(Message::Effect(number, outcome)));
            }
        }));
        self.effect = Some(tokio::spawn(async move {
            let outcome = effect.await;
            if let Some(messages) = messages.upgrade() {
                drop(messages.send(Message::Effect(number, outcome)).await);
            }
        }));
    }

    fn cancel_effect(&mut self) {
        self.effects += 1;
        if let Some(effect) = self.effect.take() {
            effect.abort();
        }
    }

    fn adopt(&mut self, prepared: Box<Prepared>) {
        let Prepared { agent, seat, desktop } = *prepared;
        self.context.open_to_group();
        self.agents += 1;
        self.agent = Some(agent.identity());
        self.launched = agent.is_launched();
        self.ending = None;
        self.commands = desktop;
        tracing::info!(pid = %agent.pid(), display = seat.display, agents = self.agents, "agent waits");
        self.publish.send_modify(|view| view.seat = Some(seat));
        tokio::spawn(listen(agent, self.agents, self.messages.clone()));
    }

    fn signal(&self, signal: Signal) {
        if let Some(agent) = self.agent {
            tracing::debug!(pid = %agent.pid(), %signal, "to the agent");
            agent.signal(signal);
        }
    }

    fn start_desktop(&mut self) {
        let commands = std::mem::take(&mut self.commands);
        if commands.is_empty() {
            return;
        }
        let log = self.context.settings.log_dir.join("qvd-session.log");
        let started = RunningDesktop::start(&commands, &log);
        match started {
            Ok(desktop) => {
                let (stop, stopped) = oneshot::channel();
                let task = tokio::spawn(supervise(desktop, stopped, self.agents, self.messages.clone()));
                self.desktop = Some((stop, task));
            }
            Err(error) => {
                tracing::error!(%error, "the desktop cannot be started");
                self.keep_failure(Some(format!("the desktop program cannot be started: {error}")));
                self.step(Event::SessionEnded);
            }
        }
    }

    fn end_desktop(&mut self) {
        if let Some((stop, task)) = self.desktop.take() {
            drop(stop);
            self.ended_desktops.retain(|task| !task.is_finished());
            self.ended_desktops.push(task);
        }
    }

    fn clean_up(&mut self) {
        self.context.remove_files();
        self.commands.clear();
        self.publish.send_modify(|view| view.seat = None);
    }

    fn record(&mut self, phase: Phase, failure: Failure) {
        let mut ending = None;
        if failure == Failure::Died
            && let Some((status, last_words)) = &self.ending
        {
            self.deaths += 1;
            let how = if self.launched { "not known".to_owned() } else { describe(*status) };
            tracing::error!(
                %phase, how, last_words, deaths = self.deaths, agents = self.agents, "agent died"
            );
            ending = Some(*status).filter(|_| !self.launched);
        }
        let text = told::words(phase, failure, ending);
        tracing::warn!(%phase, ?failure, text, "X session failed");
        self.keep_failure(Some(text));
    }

    fn keep_failure(&mut self, text: Option<String>) {
        self.publish.send_modify(|view| view.failure = text);
    }

    fn answer(&mut self, answer: StartAnswer) {
        let result = match answer {
            StartAnswer::Starting => Ok(()),
            StartAnswer::Refused(state) => {
                Err(format!("Unable to start/resume X session in state {state}, try again in a few minutes"))
            }
            StartAnswer::SuspendingFirst => {
                Err("Can't connect to X session in state connected, suspending it, retry later".to_owned())
            }
            StartAnswer::Failed => {
                let failure = self.publish.borrow().failure.clone();
                Err(failure.unwrap_or_else(|| "the X session could not be started".to_owned()))
            }
        };
        if let Some(caller) = self.asking.take().or_else(|| self.waiting.take()) {
            // A caller that hung up has no use for the answer.
            drop(caller.send(result));
        }
    }
}

/// Reports a step of an effect that goes on.
type Reporter = Box<dyn Fn(Outcome) + Send + Sync>;

/// A desktop also ends because its display died under it. That is told by the agent's own end, which comes this
/// much later at most.
const AFTERMATH: Duration = Duration::from_millis(500);

/// A desktop that fails within this time never was one.
const AT_ONCE: Duration = Duration::from_secs(5);

fn answer(asked: &mut Option<oneshot::Sender<bool>>, acted: bool) {
    if let Some(caller) = asked.take() {
        let _ = caller.send(acted);
    }
}

/// Passes on what an agent says, until its end.
async fn listen(mut agent: RunningAgent, number: u64, messages: mpsc::WeakSender<Message>) {
    loop {
        let message = match agent.next().await {
            AgentEvent::Line(line) => Message::Agent(number, line),
            AgentEvent::Gone(status) => Message::AgentGone(number, status, agent.last_words().to_owned()),
        };
        let last = matches!(message, Message::AgentGone(..));
        let Some(messages) = messages.upgrade() else { return };
        if messages.send(message).await.is_err() || last {
            return;
        }
    }
}

/// Watches a desktop, and ends what is left of it when it has ended or is told to.
async fn supervise(
    mut desktop: RunningDesktop,
    mut stopped: oneshot::Receiver<()>,
    number: u64,
    messages: mpsc::WeakSender<Message>,
) {
    let started = Instant::now();
    let status = tokio::select! {
        status = desktop.ended() => Some(status.ok()),
        // The shell lets go of its end; nothing is ever sent.
        _ = &mut stopped => None,
    };
    if let Some(status) = status {
        let lived = started.elapsed();
        tokio::select! {
            () = tokio::time::sleep(AFTERMATH) => {
                if let Some(messages) = messages.upgrade() {
                    drop(messages.send(Message::DesktopEnded(number, status, lived)).await);
                }
            }
            _ = stopped => {}
        }
    }
    desktop.end().await;
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
