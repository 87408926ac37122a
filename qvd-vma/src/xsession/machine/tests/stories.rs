//! Short scripts: events at times, and what is to be done at each.

use super::*;

/// Feeds events at growing times (milliseconds) and collects what is to be done.
struct Script {
    machine: Machine,
    origin: Instant,
}

impl Script {
    fn new() -> Self {
        Self { machine: Machine::new(Limits::default()), origin: Instant::now() }
    }

    fn at(&mut self, milliseconds: u64, event: Event) -> String {
        short(&self.machine.step(event, self.origin + Duration::from_millis(milliseconds)))
    }

    /// To suspended at one second.
    fn suspended() -> Self {
        let mut script = Self::new();
        for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan, Event::Launched] {
            script.at(0, event);
        }
        for report in [Report::Started, Report::Suspending, Report::Suspended] {
            script.at(1000, Event::Output(report));
        }
        assert_eq!(script.machine.phase(), Phase::Suspended);
        script
    }

    fn deadline(&self) -> u64 {
        let deadline = self.machine.deadline().unwrap();
        u64::try_from((deadline - self.origin).as_millis()).unwrap()
    }
}

#[test]
fn an_agent_is_not_woken_before_it_has_settled() {
    let mut script = Script::suspended();
    script.at(1010, Event::StartAsked);
    assert_eq!(script.at(1020, Event::Consulted), "publish:starting");
    assert_eq!(script.deadline(), 1200);
    assert_eq!(script.at(1200, Event::Deadline), "hup connect-hook");
    assert_eq!(script.at(1201, Event::ConnectHookPassed), "started");
    assert_eq!(script.at(1210, Event::Output(Report::Resuming)), "");
    assert_eq!(script.at(1220, Event::Output(Report::Waiting)), "publish:listening");
}

#[test]
fn a_lost_hup_is_sent_again() {
    let mut script = Script::suspended();
    script.at(5000, Event::StartAsked);
    assert_eq!(script.at(5000, Event::Consulted), "publish:starting hup connect-hook");
    assert_eq!(script.deadline(), 6000);
    assert_eq!(script.at(6000, Event::Deadline), "hup");
    script.at(6010, Event::Output(Report::Resuming));
    // Once it reacts it is left alone, however slow it is.
    assert_eq!(script.deadline(), 25_000);
    assert_eq!(script.at(7000, Event::Deadline), "");
}

#[test]
fn a_resume_that_comes_to_nothing_is_tried_again() {
    let mut script = Script::suspended();
    script.at(5000, Event::StartAsked);
    script.at(5000, Event::Consulted);
    script.at(5010, Event::Output(Report::Resuming));
    script.at(5020, Event::Output(Report::Suspending));
    assert_eq!(script.at(5030, Event::Output(Report::Suspended)), "");
    assert_eq!(script.at(5230, Event::Deadline), "hup");
}

#[test]
fn a_resume_that_is_called_off_leaves_the_agent_asleep() {
    let mut script = Script::suspended();
    // Before the agent knows of it.
    script.at(1010, Event::StartAsked);
    script.at(1020, Event::Consulted);
    assert_eq!(script.at(1030, Event::SuspendAsked), "publish:suspended refuse:suspended suspend:true");
    assert_eq!(script.machine.deadline(), None);
    // Behind the HUP.
    script.at(5000, Event::StartAsked);
    script.at(5000, Event::Consulted);
    assert_eq!(script.at(5010, Event::SuspendAsked), "suspend:true");
    script.at(5020, Event::Output(Report::Resuming));
    assert_eq!(script.at(5030, Event::Output(Report::Waiting)), "publish:suspending hup");
    assert_eq!(script.at(5040, Event::Output(Report::Suspended)), "publish:suspended");
    // The next resume is wanted again.
    script.at(6000, Event::StartAsked);
    script.at(6000, Event::Consulted);
    script.at(6010, Event::Output(Report::Resuming));
    assert_eq!(script.at(6020, Event::Output(Report::Waiting)), "publish:listening");
}

#[test]
fn a_first_start_that_is_called_off_ends_when_its_agent_waits() {
    for called_off in 0..3 {
        let mut script = Script::new();
        script.at(0, Event::StartAsked);
        for (at, event) in
            [Event::Consulted, Event::ProvisioningBegan, Event::LaunchBegan].into_iter().enumerate()
        {
            script.at(10, event);
            if at == called_off {
                assert_eq!(script.at(10, Event::SuspendAsked), "suspend:true");
            }
        }
        assert_eq!(script.at(20, Event::Launched), "publish:stopping term");
        script.at(900, Event::AgentGone);
        assert_eq!(script.machine.phase(), Phase::Stopped);
        for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan] {
            script.at(1000, event);
        }
        assert_eq!(script.at(1000, Event::Launched), "publish:listening");
    }
}

#[test]
fn a_deaf_agent_is_ended_only_when_it_stays_deaf() {
    let mut script = Script::suspended();
    for round in 1..=DEAF_AFTER {
        let start = 100_000 * u64::from(round);
        script.at(start, Event::StartAsked);
        script.at(start, Event::Consulted);
        while script.machine.phase() == Phase::Waking {
            let at = script.deadline();
            script.at(at, Event::Deadline);
        }
        let expected = if round < DEAF_AFTER { Phase::Suspended } else { Phase::Stopping };
        assert_eq!(script.machine.phase(), expected, "round {round}");
    }
}

#[test]
fn a_hup_that_crosses_the_agents_own_suspend_does_no_harm() {
    let mut script = Script::new();
    for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan, Event::Launched] {
        script.at(0, event);
    }
    script.at(0, Event::Output(Report::Started));
    assert_eq!(script.at(100, Event::StartAsked), "hup suspending-first");
    assert_eq!(script.at(200, Event::StartAsked), "suspending-first", "one is outstanding");
    script.at(300, Event::Output(Report::Suspending));
    script.at(400, Event::Output(Report::Suspended));
    // Our HUP came too late and woke it.
    assert_eq!(script.at(410, Event::Output(Report::Resuming)), "publish:suspending");
    assert_eq!(script.at(420, Event::StartAsked), "refuse:suspending");
    assert_eq!(script.at(430, Event::Output(Report::Waiting)), "hup");
    script.at(440, Event::Output(Report::Suspending));
    assert_eq!(script.at(450, Event::Output(Report::Suspended)), "publish:suspended");
}

#[test]
fn an_agent_that_woke_during_the_hook_is_taken_as_it_is() {
    let mut script = Script::suspended();
    script.at(5000, Event::StartAsked);
    script.at(5001, Event::Output(Report::Resuming));
    script.at(5002, Event::Output(Report::Waiting));
    assert_eq!(script.at(5003, Event::Consulted), "publish:listening connect-hook");

    let mut refused = Script::suspended();
    refused.at(5000, Event::StartAsked);
    refused.at(5001, Event::Output(Report::Resuming));
    refused.at(5002, Event::Output(Report::Waiting));
    assert_eq!(refused.at(5003, Event::ConsultFailed), "publish:suspending failed hup");
}

#[test]
fn a_lost_suspending_hup_can_be_sent_again_later() {
    let mut script = Script::new();
    for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan, Event::Launched] {
        script.at(0, event);
    }
    script.at(0, Event::Output(Report::Started));
    assert_eq!(script.at(0, Event::StartAsked), "hup suspending-first");
    assert_eq!(script.at(4999, Event::StartAsked), "suspending-first");
    assert_eq!(script.at(5000, Event::StartAsked), "hup suspending-first");
}

#[test]
fn a_suspending_hup_that_a_connected_agent_does_not_answer_is_sent_again_a_few_times() {
    let mut script = Script::new();
    for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan, Event::Launched] {
        script.at(0, event);
    }
    script.at(0, Event::Output(Report::Started));
    assert_eq!(script.at(0, Event::SuspendAsked), "hup suspend:true");
    for again in 1..u64::from(DEAF_AFTER) {
        assert_eq!(script.deadline(), 5000 * again);
        assert_eq!(script.at(5000 * again, Event::Deadline), "hup");
    }
    assert_eq!(script.at(15_000, Event::Deadline), "");
    assert_eq!(script.machine.deadline(), None, "it is left to whoever looks at it");
    assert_eq!(script.machine.phase(), Phase::Connected);
    assert_eq!(script.at(16_000, Event::SuspendAsked), "hup suspend:true");
    script.at(16_001, Event::Output(Report::Suspending));
    assert_eq!(script.at(16_010, Event::Output(Report::Suspended)), "publish:suspended");
}

/// The agent had said that it waits and did not yet.
#[test]
fn a_hup_that_comes_just_before_the_wait_is_sent_again_until_it_is_answered() {
    let mut script = Script::suspended();
    for event in [Event::StartAsked, Event::Consulted, Event::Output(Report::Resuming)] {
        script.at(5000, event);
    }
    assert_eq!(script.at(5001, Event::SuspendAsked), "suspend:true");
    assert_eq!(script.at(5010, Event::Output(Report::Waiting)), "publish:suspending hup");
    assert_eq!(script.deadline(), 6010);
    assert_eq!(script.at(6010, Event::Deadline), "hup");
    assert_eq!(script.at(7010, Event::Deadline), "hup");
    script.at(7011, Event::Output(Report::Suspending));
    // Once it reacts it is left alone, and has the time that it takes.
    assert_eq!(script.deadline(), 25_010);
    assert_eq!(script.at(24_000, Event::Deadline), "");
    assert_eq!(script.at(24_500, Event::Output(Report::Suspended)), "publish:suspended");
    assert_eq!(script.machine.deadline(), None);
}

#[test]
fn one_hup_too_many_wakes_the_agent_and_does_no_harm() {
    let mut script = Script::suspended();
    for event in [Event::StartAsked, Event::Consulted, Event::Output(Report::Resuming)] {
        script.at(5000, event);
    }
    script.at(5001, Event::SuspendAsked);
    script.at(5010, Event::Output(Report::Waiting));
    // It was only slow.
    assert_eq!(script.at(6010, Event::Deadline), "hup");
    script.at(6020, Event::Output(Report::Suspending));
    script.at(6030, Event::Output(Report::Suspended));
    script.at(6040, Event::Output(Report::Resuming));
    assert_eq!(script.at(6050, Event::Output(Report::Waiting)), "hup");
    assert_eq!(script.at(6060, Event::Output(Report::Suspended)), "publish:suspended");
}

#[test]
fn an_agent_that_answers_no_hup_is_ended_in_the_end() {
    let mut script = Script::suspended();
    for event in [Event::StartAsked, Event::Consulted, Event::Output(Report::Resuming)] {
        script.at(5000, event);
    }
    assert_eq!(script.at(5001, Event::ConnectHookPassed), "started");
    script.at(5001, Event::SuspendAsked);
    script.at(5010, Event::Output(Report::Waiting));
    let mut hups = 0;
    let end = loop {
        let at = script.deadline();
        match script.at(at, Event::Deadline).as_str() {
            "hup" => hups += 1,
            other => break (at, other.to_owned()),
        }
    };
    assert_eq!(end, (25_010, "publish:stopping timed-out term".to_owned()));
    assert_eq!(hups, 19);
}

#[test]
fn a_term_is_sent_again_until_it_is_answered() {
    let mut script = Script::suspended();
    assert_eq!(script.at(5000, Event::StopAsked), "publish:stopping term stop:true");
    assert_eq!(script.deadline(), 6000);
    assert_eq!(script.at(6000, Event::Deadline), "term");
    assert_eq!(script.at(6010, Event::Output(Report::Suspended)), "term");
    assert_eq!(script.at(7010, Event::Deadline), "term");
    script.at(7020, Event::Output(Report::Terminating));
    assert_eq!(script.deadline(), 25_000);
    assert_eq!(script.at(25_000, Event::Deadline), "kill");
    assert_eq!(script.deadline(), 45_000);
    assert_eq!(script.at(45_000, Event::Deadline), "kill");
}

#[test]
fn a_refusing_connect_hook_of_a_resume_puts_the_agent_back_to_sleep() {
    let mut script = Script::suspended();
    script.at(5000, Event::StartAsked);
    script.at(5000, Event::Consulted);
    assert_eq!(script.at(5001, Event::ConnectHookFailed), "failed");
    script.at(5002, Event::Output(Report::Resuming));
    assert_eq!(script.at(5003, Event::Output(Report::Waiting)), "publish:suspending hup");
}

#[test]
fn a_client_that_is_there_has_the_time_that_its_link_takes() {
    let mut script = Script::new();
    for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan, Event::Launched] {
        script.at(0, event);
    }
    assert_eq!(script.deadline(), 10_000);
    assert_eq!(script.at(9000, Event::Output(Report::Accepted)), "");
    assert_eq!(script.deadline(), 129_000);
    assert_eq!(script.at(10_000, Event::Deadline), "");
    assert_eq!(script.at(128_000, Event::Output(Report::Started)), "publish:connected start-session");
    assert_eq!(script.machine.deadline(), None);

    let mut never = Script::new();
    for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan, Event::Launched] {
        never.at(0, event);
    }
    never.at(9000, Event::Output(Report::Accepted));
    assert_eq!(never.at(129_000, Event::Deadline), "publish:stopping too-slow term");

    let mut resumed = Script::suspended();
    for event in [Event::StartAsked, Event::Consulted, Event::Output(Report::Waiting)] {
        resumed.at(5000, event);
    }
    resumed.at(6000, Event::Output(Report::Accepted));
    assert_eq!(resumed.at(15_000, Event::Deadline), "");
    assert_eq!(resumed.at(126_000, Event::Deadline), "publish:suspending too-slow hup");
    // The next wait is for another client.
    resumed.at(126_100, Event::Output(Report::Suspended));
    for event in [Event::StartAsked, Event::Consulted, Event::Output(Report::Waiting)] {
        resumed.at(130_000, event);
    }
    assert_eq!(resumed.at(140_000, Event::Deadline), "publish:suspending nobody-came hup");
}
