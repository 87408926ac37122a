//! The machine itself: phases, and what each event means in each of them.

use std::time::{Duration, Instant};

use qvd_core::model::VmRuntime;
use qvd_core::state::{UserCommand, UserState, VmCommand, VmState, XState};
use qvd_core::{SessionId, VmId};

use super::{Action, Event, Failure, Limits, Refusal, later};
use crate::progress::{Reason, Step};

/// Where a wait of several rounds stands. Each round reads the row, then does the phase's own call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Until the next round.
    Pausing(Instant),
    /// The row is being read.
    Looking,
    /// The phase's own call is on its way.
    Calling,
    /// After an `x_start` without answer: the agent is asked whether it took it.
    Doubting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Fresh,
    Acquiring {
        since: Instant,
    },
    Displacing {
        since: Instant,
    },
    Contending {
        since: Instant,
        retry_at: Instant,
    },
    Preparing {
        assign: bool,
    },
    Assigning,
    Booting {
        since: Instant,
        round: Round,
    },
    Settling {
        since: Instant,
        round: Round,
    },
    /// No desktop is there: the agent is asked how the last one ended, which its user may not have been told yet.
    Recalling,
    Starting {
        tries: u32,
        round: Round,
    },
    Arriving {
        since: Instant,
        round: Round,
    },
    Dialling {
        since: Instant,
        round: Round,
    },
    /// The desktop did not come, or went there instead: the agent is asked why.
    Explaining {
        went_to: Option<XState>,
    },
    Committing,
    Switching,
    Forwarding,
    Over,
}

/// The connect machine of one request.
#[derive(Clone, Debug)]
pub struct Machine {
    vm: VmId,
    session: SessionId,
    limits: Limits,
    phase: Phase,
    /// The pause before the next question to the agent; grows from short to `poll_x`.
    pause: Duration,
    told: Option<(Step, Instant)>,
    last_refusal: String,
    /// Since when the row is asked for without an answer.
    unanswered: Option<Instant>,
    /// Some row changed while an effect was on its way, and what the effect brings may be older than that.
    woken: bool,
    /// The desktop had not been left when the wait for that was over: what is done to it may hit somebody else's.
    occupied: bool,
}

impl Machine {
    /// A machine for one connect; begins with [`Event::Begin`].
    pub fn new(vm: VmId, session: SessionId, limits: Limits) -> Self {
        Self {
            vm,
            session,
            limits,
            phase: Phase::Fresh,
            pause: FIRST_PAUSE,
            told: None,
            last_refusal: String::new(),
            unanswered: None,
            woken: false,
            occupied: false,
        }
    }

    /// The virtual machine.
    pub fn vm(&self) -> VmId {
        self.vm
    }

    /// Whether bytes may flow.
    pub fn is_forwarding(&self) -> bool {
        self.phase == Phase::Forwarding
    }

    /// Whether it has ended without a desktop.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    #[cfg(test)]
    pub(super) fn is_fresh(&self) -> bool {
        self.phase == Phase::Fresh
    }

    /// Whether it waits for the same as before.
    #[cfg(test)]
    pub(super) fn waits_like(&self, before: &Self) -> bool {
        self.phase == before.phase
    }

    /// The phase without its times.
    #[cfg(test)]
    pub(super) fn phase_name(&self) -> String {
        let text = format!("{:?}", self.phase);
        let kind = text.split([' ', '{']).next().unwrap_or_default().to_owned();
        let round = ["Pausing", "Looking", "Calling", "Doubting"].into_iter().find(|r| text.contains(r));
        format!("{kind}/{}", round.unwrap_or_default())
    }

    /// When to report [`Event::Deadline`].
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Contending { since, retry_at } => Some(retry_at.min(later(since, self.limits.takeover))),
            Phase::Booting { since, round: Round::Pausing(until) } => {
                Some(until.min(later(since, self.limits.vm_start)))
            }
            Phase::Settling { round: Round::Pausing(until), .. }
            | Phase::Starting { round: Round::Pausing(until), .. }
            | Phase::Arriving { round: Round::Pausing(until), .. }
            | Phase::Dialling { round: Round::Pausing(until), .. } => Some(until),
            // A database that does not even fail keeps nobody waiting for longer.
            Phase::Booting { since, round: Round::Looking } => Some(later(since, self.limits.vm_start)),
            Phase::Settling { round: Round::Looking, .. }
            | Phase::Starting { round: Round::Looking, .. }
            | Phase::Arriving { round: Round::Looking, .. }
            | Phase::Dialling { round: Round::Looking, .. } => {
                self.unanswered.map(|since| later(since, self.limits.x_start))
            }
            Phase::Booting { round: Round::Calling | Round::Doubting, .. }
            | Phase::Settling { round: Round::Calling | Round::Doubting, .. }
            | Phase::Starting { round: Round::Calling | Round::Doubting, .. }
            | Phase::Arriving { round: Round::Calling | Round::Doubting, .. }
            | Phase::Dialling { round: Round::Calling | Round::Doubting, .. }
            | Phase::Fresh
            | Phase::Acquiring { .. }
            | Phase::Displacing { .. }
            | Phase::Preparing { .. }
            | Phase::Assigning
            | Phase::Recalling
            | Phase::Explaining { .. }
            | Phase::Committing
            | Phase::Switching
            | Phase::Forwarding
            | Phase::Over => None,
        }
    }

    /// Takes an event; an event that the phase does not wait for is ignored.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let called_off = self.agent_expects_client() && self.is_unwanted(&event);
        let mut actions = self.react(event, now);
        if called_off && self.is_over() {
            actions.push(Action::CallOff);
        }
        actions
    }

    fn react(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Begin => match self.phase {
                Phase::Fresh => self.acquire(now),
                _ => IGNORED,
            },
            Event::Acquired(row) => match self.phase {
                Phase::Acquiring { .. } => self.acquired(&row, now),
                _ => IGNORED,
            },
            Event::NotAcquired(row) => match self.phase {
                Phase::Acquiring { since } => self.contended(&row, since, now),
                _ => IGNORED,
            },
            Event::AbortAsked => match self.phase {
                // Whoever had it may have gone before it could be told.
                Phase::Displacing { since } if self.woken => self.retry_acquire(since, now),
                Phase::Displacing { since } => {
                    self.phase = Phase::Contending { since, retry_at: later(now, self.limits.poll_vm) };
                    IGNORED
                }
                _ => IGNORED,
            },
            Event::AlreadyGone => match self.phase {
                Phase::Displacing { since } => self.retry_acquire(since, now),
                _ => IGNORED,
            },
            Event::HookPassed => match self.phase {
                Phase::Preparing { assign: true } => {
                    self.phase = Phase::Assigning;
                    vec![Action::Claim]
                }
                Phase::Preparing { assign: false } => self.boot(now),
                _ => IGNORED,
            },
            Event::Claimed(row) => match self.phase {
                Phase::Assigning => self.boot_with(&row, now),
                _ => IGNORED,
            },
            Event::NotClaimed(row) => match self.phase {
                // Somebody else ordered the start meanwhile: as good as our own order.
                Phase::Assigning if row.host_id.is_some() && !row.blocked => self.boot_with(&row, now),
                Phase::Assigning => self.refuse(Reason::StateChanged),
                _ => IGNORED,
            },
            Event::NoHost => match self.phase {
                Phase::Assigning => self.refuse(Reason::NoHost),
                _ => IGNORED,
            },
            Event::NoHostClaimed => match self.phase {
                Phase::Assigning => self.refuse(Reason::NotAssigned),
                _ => IGNORED,
            },
            Event::Row(row) => self.row(&row, now),
            Event::RowGone => match self.phase {
                Phase::Acquiring { .. } | Phase::Displacing { .. } | Phase::Assigning | Phase::Committing => {
                    self.refuse(Reason::NotStarted)
                }
                _ if self.looking() => self.refuse(Reason::NotStarted),
                _ => IGNORED,
            },
            Event::RowUnread => match self.looking() {
                true => self.unread(now),
                false => IGNORED,
            },
            Event::XState(state) => self.x_state(Some(state), now),
            Event::XStateUnknown => self.x_state(None, now),
            Event::XFailure(words) => self.x_failure(words, now),
            Event::XStarted => match self.phase {
                Phase::Starting { round: Round::Calling, .. } => self.arrive(now),
                _ => IGNORED,
            },
            Event::XRefused(words) => match self.phase {
                Phase::Starting { tries, round: Round::Calling } => {
                    self.last_refusal = words;
                    self.start_failed(tries, now)
                }
                _ => IGNORED,
            },
            Event::XSilent => match self.phase {
                Phase::Starting { tries, round: Round::Calling } => {
                    self.last_refusal = SILENT.to_owned();
                    self.phase = Phase::Starting { tries, round: Round::Doubting };
                    vec![Action::AskXState]
                }
                _ => IGNORED,
            },
            Event::Dialled => match self.phase {
                Phase::Dialling { round: Round::Calling, .. } => {
                    self.phase = Phase::Committing;
                    vec![Action::CountNxOk, Action::Commit]
                }
                _ => IGNORED,
            },
            Event::NotDialled(error) => match self.phase {
                Phase::Dialling { since, round: Round::Calling } => {
                    if now >= later(since, self.limits.x_start) {
                        self.last_refusal = error;
                        return self.explain(None);
                    }
                    self.pause_again(now)
                }
                _ => IGNORED,
            },
            Event::Committed => match self.phase {
                Phase::Committing => {
                    self.phase = Phase::Switching;
                    let mut actions = self.tell(Step::Established, now);
                    actions.push(Action::Switch);
                    actions
                }
                _ => IGNORED,
            },
            Event::NotCommitted(row) => match self.phase {
                Phase::Committing => match self.loss(&row) {
                    Some(reason) => self.refuse(reason),
                    None => self.refuse(Reason::UserStateWentTo(row.user_state)),
                },
                _ => IGNORED,
            },
            Event::Switched => match self.phase {
                Phase::Switching => {
                    self.phase = Phase::Forwarding;
                    IGNORED
                }
                _ => IGNORED,
            },
            Event::Failed(Failure::Database) => self.end_with(Refusal::Unavailable(Reason::Database)),
            Event::Failed(Failure::Hook) => self.end_with(Refusal::Internal),
            Event::Aborted => self.end_with(Refusal::Unavailable(Reason::Aborted)),
            Event::Stopping => self.end_with(Refusal::Unavailable(Reason::Stopping)),
            Event::ClientGone => match self.phase {
                Phase::Forwarding | Phase::Over => IGNORED,
                _ => {
                    self.phase = Phase::Over;
                    vec![Action::Abandon]
                }
            },
            Event::Woken => match self.phase {
                Phase::Contending { since, .. } => self.retry_acquire(since, now),
                Phase::Booting { since, round: Round::Pausing(_) } => self.look_boot(since, now),
                Phase::Acquiring { .. }
                | Phase::Displacing { .. }
                | Phase::Booting { round: Round::Looking, .. } => {
                    self.woken = true;
                    IGNORED
                }
                _ => IGNORED,
            },
            Event::Deadline => self.deadline_reached(now),
        }
    }

    fn acquire(&mut self, since: Instant) -> Vec<Action> {
        self.phase = Phase::Acquiring { since };
        self.woken = false;
        vec![Action::Acquire]
    }

    fn retry_acquire(&mut self, since: Instant, now: Instant) -> Vec<Action> {
        if now >= later(since, self.limits.takeover) {
            return self.refuse(Reason::Contended);
        }
        self.acquire(since)
    }

    fn contended(&mut self, row: &VmRuntime, since: Instant, now: Instant) -> Vec<Action> {
        if row.blocked {
            return self.refuse(Reason::StateChanged);
        }
        let mut actions = self.tell(Step::Aborting, now);
        match row.session_id {
            Some(other) => {
                self.phase = Phase::Displacing { since };
                actions.push(Action::AskAbort(other));
            }
            // It went between the write and the look.
            None => actions.extend(self.retry_acquire(since, now)),
        }
        actions
    }

    fn acquired(&mut self, row: &VmRuntime, now: Instant) -> Vec<Action> {
        let assign = row.vm_state == VmState::Stopped && row.host_id.is_none();
        self.phase = Phase::Preparing { assign };
        let mut actions = self.tell(Step::Acquired, now);
        if assign {
            actions.extend(self.tell(Step::Assigning, now));
        }
        actions.push(Action::RunHook);
        actions
    }

    /// Goes on without news of the row.
    fn boot(&mut self, now: Instant) -> Vec<Action> {
        self.phase = Phase::Booting { since: now, round: Round::Looking };
        self.look(now)
    }

    fn boot_with(&mut self, row: &VmRuntime, now: Instant) -> Vec<Action> {
        self.phase = Phase::Booting { since: now, round: Round::Looking };
        self.row(row, now)
    }

    fn look_boot(&mut self, since: Instant, now: Instant) -> Vec<Action> {
        if now >= later(since, self.limits.vm_start) {
            return self.refuse(Reason::VmTimeout);
        }
        self.phase = Phase::Booting { since, round: Round::Looking };
        self.look(now)
    }

    /// Reads the row.
    fn look(&mut self, now: Instant) -> Vec<Action> {
        self.woken = false;
        self.unanswered.get_or_insert(now);
        vec![Action::Look]
    }

    /// No news of the row. A machine that boots has its own limit; a desktop is not waited for longer than it may
    /// take, since nobody knows any more whether it still is wanted.
    fn unread(&mut self, now: Instant) -> Vec<Action> {
        let begun = match self.phase {
            Phase::Booting { .. } => None,
            Phase::Arriving { since, .. } | Phase::Dialling { since, .. } => Some(since),
            _ => self.unanswered,
        };
        if begun.is_some_and(|since| now >= later(since, self.limits.x_start)) {
            return self.refuse(Reason::Database);
        }
        self.pause_again(now)
    }

    fn row(&mut self, row: &VmRuntime, now: Instant) -> Vec<Action> {
        if !self.looking() {
            return IGNORED;
        }
        self.unanswered = None;
        if let Some(reason) = self.loss(row) {
            return self.refuse(reason);
        }
        match self.phase {
            Phase::Booting { since, .. } => self.booting_row(row, since, now),
            Phase::Settling { .. }
            | Phase::Starting { .. }
            | Phase::Arriving { .. }
            | Phase::Dialling { .. } => {
                if row.vm_state != VmState::Running {
                    return self.refuse(Reason::NotStarted);
                }
                self.call(now)
            }
            Phase::Fresh
            | Phase::Acquiring { .. }
            | Phase::Displacing { .. }
            | Phase::Contending { .. }
            | Phase::Preparing { .. }
            | Phase::Assigning
            | Phase::Recalling
            | Phase::Explaining { .. }
            | Phase::Committing
            | Phase::Switching
            | Phase::Forwarding
            | Phase::Over => IGNORED,
        }
    }

    fn booting_row(&mut self, row: &VmRuntime, since: Instant, now: Instant) -> Vec<Action> {
        match row.vm_state {
            VmState::Running => {
                self.phase = Phase::Settling { since: now, round: Round::Calling };
                vec![Action::AskXState]
            }
            VmState::Stopped if row.vm_cmd != Some(VmCommand::Start) => self.refuse(Reason::NotStarted),
            VmState::Stopped
            | VmState::Starting
            | VmState::Stopping
            | VmState::Zombie
            | VmState::Debugging => {
                let mut actions = Vec::new();
                if row.vm_state == VmState::Stopped && self.told.is_none_or(|(s, _)| s < Step::StartingVm) {
                    actions.extend(self.tell(Step::StartingVm, now));
                }
                actions.extend(self.tell(Step::WaitingForVm, now));
                if self.woken {
                    actions.extend(self.look_boot(since, now));
                } else {
                    let until = later(now, self.limits.poll_vm);
                    self.phase = Phase::Booting { since, round: Round::Pausing(until) };
                }
                actions
            }
        }
    }

    /// The row is as it should be: the phase's own call.
    fn call(&mut self, now: Instant) -> Vec<Action> {
        match &mut self.phase {
            Phase::Settling { round, .. } | Phase::Arriving { round, .. } => {
                *round = Round::Calling;
                vec![Action::AskXState]
            }
            Phase::Starting { round, .. } => {
                *round = Round::Calling;
                vec![Action::StartX]
            }
            Phase::Dialling { round, .. } => {
                *round = Round::Calling;
                let mut actions = self.tell(Step::Connecting, now);
                if !actions.is_empty() {
                    actions.push(Action::CountNxAttempt);
                }
                actions.push(Action::Dial);
                actions
            }
            Phase::Fresh
            | Phase::Acquiring { .. }
            | Phase::Displacing { .. }
            | Phase::Contending { .. }
            | Phase::Preparing { .. }
            | Phase::Assigning
            | Phase::Booting { .. }
            | Phase::Recalling
            | Phase::Explaining { .. }
            | Phase::Committing
            | Phase::Switching
            | Phase::Forwarding
            | Phase::Over => IGNORED,
        }
    }

    fn x_state(&mut self, state: Option<XState>, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Settling { since, round: Round::Calling } => self.settling(state, since, now),
            Phase::Starting { tries, round: Round::Doubting } => match state {
                Some(XState::Listening) => self.dial(now),
                Some(XState::Starting | XState::Provisioning) => self.arrive(now),
                Some(
                    XState::Stopped
                    | XState::Connected
                    | XState::Suspending
                    | XState::Suspended
                    | XState::Stopping,
                )
                | None => self.start_failed(tries, now),
            },
            Phase::Arriving { since, round: Round::Calling } => self.arriving(state, since, now),
            _ => IGNORED,
        }
    }

    fn settling(&mut self, state: Option<XState>, since: Instant, now: Instant) -> Vec<Action> {
        match state {
            Some(XState::Connected | XState::Suspending) if now < later(since, self.limits.settle) => {
                let until = later(now, SETTLE_PAUSE.min(self.limits.poll_x));
                self.phase = Phase::Settling { since, round: Round::Pausing(until) };
                self.tell(Step::StartingX, now)
            }
            Some(XState::Connected | XState::Suspending) => {
                self.occupied = true;
                self.start(now)
            }
            Some(XState::Stopped) => {
                self.phase = Phase::Recalling;
                vec![Action::AskXFailure]
            }
            Some(
                XState::Provisioning
                | XState::Starting
                | XState::Listening
                | XState::Suspended
                | XState::Stopping,
            )
            | None => self.start(now),
        }
    }

    fn start(&mut self, now: Instant) -> Vec<Action> {
        self.phase = Phase::Starting { tries: 0, round: Round::Looking };
        let mut actions = self.tell(Step::StartingX, now);
        actions.extend(self.look(now));
        actions
    }

    /// The agent's words about a desktop that ended, if it has any.
    fn x_failure(&mut self, words: Option<String>, now: Instant) -> Vec<Action> {
        match (self.phase, words) {
            (Phase::Recalling, words) => {
                let mut actions: Vec<Action> = words.map(Action::TellFailure).into_iter().collect();
                actions.extend(self.start(now));
                actions
            }
            (Phase::Explaining { .. }, Some(words)) => self.refuse(Reason::XFailed(words)),
            (Phase::Explaining { went_to: Some(state) }, None) => self.refuse(Reason::XStateWentTo(state)),
            (Phase::Explaining { went_to: None }, None) => {
                let error = std::mem::take(&mut self.last_refusal);
                self.refuse(Reason::NotDialled(error))
            }
            _ => IGNORED,
        }
    }

    fn explain(&mut self, went_to: Option<XState>) -> Vec<Action> {
        self.phase = Phase::Explaining { went_to };
        vec![Action::AskXFailure]
    }

    fn arriving(&mut self, state: Option<XState>, since: Instant, now: Instant) -> Vec<Action> {
        match state {
            Some(XState::Listening) => self.dial(now),
            Some(XState::Provisioning) => {
                // Making an account may take any time; the limit is for what follows.
                self.phase = Phase::Arriving { since: now, round: Round::Calling };
                self.pause_again(now)
            }
            Some(XState::Starting) | None if now < later(since, self.limits.x_start) => self.pause_again(now),
            Some(XState::Starting) | None => self.refuse(Reason::XTimeout),
            Some(ended @ (XState::Stopped | XState::Stopping)) => self.explain(Some(ended)),
            Some(other @ (XState::Connected | XState::Suspending | XState::Suspended)) => {
                self.refuse(Reason::XStateWentTo(other))
            }
        }
    }

    fn start_failed(&mut self, tries: u32, now: Instant) -> Vec<Action> {
        if tries >= self.limits.x_start_retries {
            let words = std::mem::take(&mut self.last_refusal);
            return self.refuse(Reason::XRefused(words));
        }
        let until = later(now, self.limits.poll_x);
        self.phase = Phase::Starting { tries: tries + 1, round: Round::Pausing(until) };
        IGNORED
    }

    fn arrive(&mut self, now: Instant) -> Vec<Action> {
        self.pause = FIRST_PAUSE;
        self.phase = Phase::Arriving { since: now, round: Round::Calling };
        let mut actions = self.tell(Step::WaitingForX, now);
        actions.push(Action::AskXState);
        actions
    }

    /// The desktop listens: look whether it is still wanted, then dial. Its state is not asked again.
    fn dial(&mut self, now: Instant) -> Vec<Action> {
        self.pause = FIRST_PAUSE;
        self.phase = Phase::Dialling { since: now, round: Round::Looking };
        self.look(now)
    }

    /// Pauses before the next round of the phase: shortly at first, so that a quick desktop is not kept waiting.
    fn pause_again(&mut self, now: Instant) -> Vec<Action> {
        let poll_x = self.limits.poll_x;
        let x_pause = self.pause.min(poll_x);
        let until = match &mut self.phase {
            Phase::Booting { round, .. } => {
                *round = Round::Pausing(later(now, self.limits.poll_vm));
                return IGNORED;
            }
            Phase::Settling { round, .. }
            | Phase::Starting { round, .. }
            | Phase::Arriving { round, .. }
            | Phase::Dialling { round, .. } => round,
            Phase::Fresh
            | Phase::Acquiring { .. }
            | Phase::Displacing { .. }
            | Phase::Contending { .. }
            | Phase::Preparing { .. }
            | Phase::Assigning
            | Phase::Recalling
            | Phase::Explaining { .. }
            | Phase::Committing
            | Phase::Switching
            | Phase::Forwarding
            | Phase::Over => return IGNORED,
        };
        *until = Round::Pausing(later(now, x_pause));
        self.pause = (self.pause * 2).min(poll_x);
        IGNORED
    }

    fn deadline_reached(&mut self, now: Instant) -> Vec<Action> {
        if self.deadline().is_none_or(|at| now < at) {
            return IGNORED;
        }
        let repeat = self.repeat(now);
        let mut actions = match &mut self.phase {
            Phase::Contending { since, .. } => {
                let since = *since;
                self.retry_acquire(since, now)
            }
            Phase::Booting { since, .. } => {
                let since = *since;
                self.look_boot(since, now)
            }
            Phase::Settling { round: Round::Looking, .. }
            | Phase::Starting { round: Round::Looking, .. }
            | Phase::Arriving { round: Round::Looking, .. }
            | Phase::Dialling { round: Round::Looking, .. } => self.refuse(Reason::Database),
            Phase::Settling { round, .. }
            | Phase::Starting { round, .. }
            | Phase::Arriving { round, .. }
            | Phase::Dialling { round, .. } => {
                *round = Round::Looking;
                self.look(now)
            }
            Phase::Fresh
            | Phase::Acquiring { .. }
            | Phase::Displacing { .. }
            | Phase::Preparing { .. }
            | Phase::Assigning
            | Phase::Recalling
            | Phase::Explaining { .. }
            | Phase::Committing
            | Phase::Switching
            | Phase::Forwarding
            | Phase::Over => IGNORED,
        };
        if self.phase != Phase::Over {
            actions.splice(0..0, repeat);
        }
        actions
    }

    /// Why the session is no longer ours, if it is not.
    fn loss(&self, row: &VmRuntime) -> Option<Reason> {
        if row.session_id != Some(self.session) {
            return Some(match row.user_state {
                UserState::Disconnected => Reason::UserStateWentTo(UserState::Disconnected),
                UserState::Connecting | UserState::Connected => Reason::Aborted,
            });
        }
        if row.user_cmd == Some(UserCommand::Abort) {
            return Some(Reason::Aborted);
        }
        (row.user_state != UserState::Connecting).then_some(Reason::UserStateWentTo(row.user_state))
    }

    /// Whether the agent may have begun to make the desktop ready, and nobody is connected to it.
    fn agent_expects_client(&self) -> bool {
        match self.phase {
            // A first x_start sends the viewer away that has not left: there is nothing to take back.
            Phase::Starting { round: Round::Calling | Round::Doubting, .. } => !self.occupied,
            Phase::Arriving { .. } | Phase::Dialling { .. } => true,
            Phase::Starting { round: Round::Pausing(_) | Round::Looking, .. }
            | Phase::Fresh
            | Phase::Acquiring { .. }
            | Phase::Displacing { .. }
            | Phase::Contending { .. }
            | Phase::Preparing { .. }
            | Phase::Assigning
            | Phase::Booting { .. }
            | Phase::Settling { .. }
            | Phase::Recalling
            | Phase::Explaining { .. }
            | Phase::Committing
            | Phase::Switching
            | Phase::Forwarding
            | Phase::Over => false,
        }
    }

    /// Whether an event says that the desktop is not wanted for this client any more.
    fn is_unwanted(&self, event: &Event) -> bool {
        match event {
            Event::ClientGone | Event::Aborted | Event::Stopping | Event::Failed(_) => true,
            // An end by either is that of a connect without news of its row.
            Event::RowUnread | Event::Deadline => true,
            // A desktop whose row names another session is that session's.
            Event::Row(row) => row.session_id == Some(self.session) && self.loss(row).is_some(),
            Event::Begin
            | Event::Acquired(_)
            | Event::NotAcquired(_)
            | Event::AbortAsked
            | Event::AlreadyGone
            | Event::HookPassed
            | Event::Claimed(_)
            | Event::NotClaimed(_)
            | Event::NoHost
            | Event::NoHostClaimed
            | Event::RowGone
            | Event::XState(_)
            | Event::XStateUnknown
            | Event::XFailure(_)
            | Event::XStarted
            | Event::XRefused(_)
            | Event::XSilent
            | Event::Dialled
            | Event::NotDialled(_)
            | Event::Committed
            | Event::NotCommitted(_)
            | Event::Switched
            | Event::Woken => false,
        }
    }

    fn looking(&self) -> bool {
        matches!(
            self.phase,
            Phase::Booting { round: Round::Looking, .. }
                | Phase::Settling { round: Round::Looking, .. }
                | Phase::Starting { round: Round::Looking, .. }
                | Phase::Arriving { round: Round::Looking, .. }
                | Phase::Dialling { round: Round::Looking, .. }
        )
    }

    /// Tells the client of a step, once: old clients give up when the 101 is not among their first ten chunks.
    fn tell(&mut self, step: Step, now: Instant) -> Vec<Action> {
        if self.told.is_some_and(|(told, _)| told >= step) {
            return IGNORED;
        }
        self.told = Some((step, now));
        vec![Action::Tell(step)]
    }

    fn repeat(&mut self, now: Instant) -> Vec<Action> {
        match &mut self.told {
            Some((step, at)) if now >= later(*at, self.limits.repeat) => {
                *at = now;
                vec![Action::Tell(*step)]
            }
            _ => IGNORED,
        }
    }

    fn refuse(&mut self, reason: Reason) -> Vec<Action> {
        self.phase = Phase::Over;
        vec![Action::Refuse(Refusal::Unavailable(reason))]
    }

    /// Ends it, unless the 101 is on its way: from there on no answer can be given, and the shell ends the stream.
    fn end_with(&mut self, refusal: Refusal) -> Vec<Action> {
        match self.phase {
            Phase::Fresh
            | Phase::Acquiring { .. }
            | Phase::Displacing { .. }
            | Phase::Contending { .. }
            | Phase::Preparing { .. }
            | Phase::Assigning
            | Phase::Booting { .. }
            | Phase::Settling { .. }
            | Phase::Recalling
            | Phase::Starting { .. }
            | Phase::Arriving { .. }
            | Phase::Dialling { .. }
            | Phase::Explaining { .. }
            | Phase::Committing => {
                self.phase = Phase::Over;
                vec![Action::Refuse(refusal)]
            }
            Phase::Switching | Phase::Forwarding | Phase::Over => IGNORED,
        }
    }
}

/// Nothing to do.
const IGNORED: Vec<Action> = Vec::new();

/// What a client is told of an agent that does not answer; the error itself names paths that are none of its business.
const SILENT: &str = "the agent does not answer";

/// The first pause between questions to the agent.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Between looks at an agent whose displaced viewer is leaving.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
