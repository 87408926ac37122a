use proptest::prelude::*;

use super::*;

const LIST: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 54\r\n\r\n\
     [{\"id\":7,\"name\":\"desk\",\"state\":\"running\",\"blocked\":0}]";
const KEY: &str = "HTTP/1.1 101 Switching Protocols\r\nX-QVD-Slave-Key: k3y\r\n\r\n";

fn plan(goal: Goal) -> Plan {
    Plan {
        server: "vdi:8443".to_owned(),
        authorization: Secret::new("Basic eA==".to_owned()),
        user_agent: "test".to_owned(),
        headers: vec![("Auth-4d59".to_owned(), "QQ==".to_owned())],
        goal,
        patience: Patience::default(),
    }
}

fn connect_goal(restart_first: bool) -> Goal {
    Goal::Connect { parameters: vec![("qvd.client.link".to_owned(), "lan".to_owned())], restart_first }
}

fn machine(goal: Goal) -> Machine {
    Machine::new(plan(goal))
}

/// One word per action, sent requests by their target.
fn names(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .map(|action| match action {
            Action::Dial => "dial".to_owned(),
            Action::Send(bytes) => {
                let text = String::from_utf8(bytes.expose().clone()).unwrap();
                format!("send {}", text.split(' ').nth(1).unwrap())
            }
            Action::Choose(list) => format!("choose of {}", list.len()),
            Action::Tell(progress) => format!("tell {progress}"),
            Action::Finish(Outcome::Listed(list)) => format!("listed {}", list.len()),
            Action::Finish(Outcome::Switched { vm, slave_key, early }) => {
                format!("switched {vm} key={} early={}", slave_key.is_some(), early.len())
            }
            Action::Finish(Outcome::Failed(error)) => format!("failed: {error}"),
        })
        .collect()
}

fn received(text: &str) -> Event {
    Event::Received(text.as_bytes().to_vec())
}

/// Feeds events and collects the names of all actions.
fn run(machine: &mut Machine, events: Vec<Event>) -> Vec<String> {
    let now = Instant::now();
    events.into_iter().flat_map(|event| names(&machine.step(event, now))).collect()
}

fn at_choosing(goal: Goal) -> Machine {
    let mut m = machine(goal);
    run(&mut m, vec![Event::Begin, Event::Dialled, received(LIST)]);
    m
}

#[test]
fn the_whole_way() {
    let mut m = machine(connect_goal(false));
    let events = vec![
        Event::Begin,
        Event::Dialled,
        received(LIST),
        Event::Chosen(7),
        received("HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: Starting virtual machine\r\n\r\n"),
        received("HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: Starting virtual machine\r\n\r\n"),
        Event::Received([KEY.as_bytes(), b"NX"].concat()),
    ];
    assert_eq!(
        run(&mut m, events),
        [
            "tell Connecting to vdi:8443",
            "dial",
            "tell Logging in",
            "send /qvd/list_of_vm?",
            "tell Logged in, 1 virtual machine",
            "choose of 1",
            "tell Connecting to virtual machine 7",
            "send /qvd/connect_to_vm?id=7&qvd.client.link=lan",
            "tell Starting virtual machine",
            "tell Connected",
            "switched 7 key=true early=2",
        ]
    );
    assert!(m.is_done() && m.deadline().is_none());
}

#[test]
fn requests_are_those_that_an_original_server_compares_byte_by_byte() {
    let mut m = at_choosing(connect_goal(false));
    let now = Instant::now();
    let actions = m.step(Event::Chosen(7), now);
    let [Action::Tell(_), Action::Send(bytes)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(
        String::from_utf8_lossy(bytes.expose()),
        "GET /qvd/connect_to_vm?id=7&qvd.client.link=lan HTTP/1.1\r\nAuthorization: Basic eA==\r\nConnection: \
         Upgrade\r\nUpgrade: QVD/1.0\r\nUser-Agent: test\r\nAuth-4d59: QQ==\r\n\r\n"
    );
    assert!(!format!("{actions:?} {m:?}").contains("eA=="), "a secret shows");
    assert_eq!(m.deadline(), Some(now + Duration::from_secs(600)));
}

#[test]
fn a_restart_stops_first_and_stays_on_the_connection() {
    let mut m = at_choosing(connect_goal(true));
    let events = vec![
        Event::Chosen(7),
        received("HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: Stopping virtual machine\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\nMachine stopped\r\n"),
        received(KEY),
    ];
    assert_eq!(
        run(&mut m, events),
        [
            "tell Stopping virtual machine 7",
            "send /qvd/stop_vm?id=7",
            "tell Stopping virtual machine",
            "tell Connecting to virtual machine 7",
            "send /qvd/connect_to_vm?id=7&qvd.client.link=lan",
            "tell Connected",
            "switched 7 key=true early=0",
        ]
    );
    let mut m = at_choosing(connect_goal(true));
    let refused = run(
        &mut m,
        vec![
            Event::Chosen(7),
            received("HTTP/1.1 403 Forbidden\r\nContent-Length: 1\r\n\r\n"),
            received("x"),
        ],
    );
    assert_eq!(refused.last().unwrap(), "failed: the server refuses: x");
}

#[test]
fn a_server_that_hung_up_while_the_user_chose_is_dialled_again() {
    let mut known_closed = at_choosing(connect_goal(false));
    let actions = run(&mut known_closed, vec![Event::Closed(None), Event::Chosen(7), Event::Dialled]);
    assert_eq!(actions[1], "dial");
    assert_eq!(actions.last().unwrap(), "send /qvd/connect_to_vm?id=7&qvd.client.link=lan");

    let mut noticed_late = at_choosing(connect_goal(false));
    let events = vec![Event::Chosen(7), Event::Closed(None), Event::Dialled, Event::Closed(None)];
    let actions = run(&mut noticed_late, events);
    assert_eq!(actions.iter().filter(|a| *a == "dial").count(), 1, "{actions:?}");
    assert_eq!(actions.last().unwrap(), "failed: the server closed the connection while connecting");

    let mut stopped_then_closed = at_choosing(connect_goal(true));
    let stop = "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\nMachine sto";
    let actions = run(
        &mut stopped_then_closed,
        vec![Event::Chosen(7), received(stop), Event::Closed(None), Event::Dialled],
    );
    assert_eq!(actions.last().unwrap(), "send /qvd/connect_to_vm?id=7&qvd.client.link=lan");
}

#[test]
fn a_refusal_needs_its_body_but_not_the_end_of_the_connection() {
    let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 17\r\n\r\n";
    let mut m = at_choosing(connect_goal(false));
    assert_eq!(run(&mut m, vec![Event::Chosen(7), received(head), received("Server is")]).len(), 2);
    assert_eq!(run(&mut m, vec![received(" blocked")]), ["failed: not available: Server is blocked"]);

    let mut cut = at_choosing(connect_goal(false));
    run(&mut cut, vec![Event::Chosen(7), received(head), received("Server is")]);
    assert_eq!(run(&mut cut, vec![Event::Closed(None)]), ["failed: not available: Server is"]);
}

#[test]
fn an_early_server_sends_no_key() {
    let mut m = at_choosing(connect_goal(false));
    let actions = run(&mut m, vec![Event::Chosen(7), received("HTTP/1.1 101 Switching Protocols\r\n\r\n")]);
    assert_eq!(actions.last().unwrap(), "switched 7 key=false early=0");
}

#[test]
fn empty_lists_lists_only_and_nonsense() {
    let mut m = machine(connect_goal(false));
    let empty = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";
    let actions = run(&mut m, vec![Event::Begin, Event::Dialled, received(empty)]);
    assert!(actions.last().unwrap().contains("no virtual machine"), "{actions:?}");

    let mut m = machine(Goal::List);
    let actions = run(&mut m, vec![Event::Begin, Event::Dialled, received(LIST)]);
    assert_eq!(actions.last().unwrap(), "listed 1");

    for nonsense in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{{{",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        let mut m = machine(Goal::List);
        let actions = run(&mut m, vec![Event::Begin, Event::Dialled, received(nonsense)]);
        let last = actions.last().unwrap();
        assert!(last.contains("answer to list_of_vm is not understood"), "{nonsense}: {last}");
    }
}

#[test]
fn patience_ends() {
    let mut m = machine(connect_goal(false));
    let now = Instant::now();
    m.step(Event::Begin, now);
    m.step(Event::Dialled, now);
    assert_eq!(m.deadline(), Some(now + Duration::from_secs(60)));
    let actions = names(&m.step(Event::Deadline, now + Duration::from_secs(60)));
    assert_eq!(actions, ["failed: no answer from the server while logging in for 60 s"]);
}

/// Makes a value afresh.
type Make<T> = fn() -> T;

/// Every phase with every event: what comes out, by the first word of each action.
#[test]
fn every_phase_meets_every_event() {
    let phases: [(&str, Make<Machine>); 6] = [
        ("idle", || machine(connect_goal(false))),
        ("dialling", || {
            let mut m = machine(connect_goal(false));
            run(&mut m, vec![Event::Begin]);
            m
        }),
        ("waiting", || {
            let mut m = machine(connect_goal(false));
            run(&mut m, vec![Event::Begin, Event::Dialled]);
            m
        }),
        ("choosing", || at_choosing(connect_goal(false))),
        ("connecting", || {
            let mut m = at_choosing(connect_goal(false));
            run(&mut m, vec![Event::Chosen(7), received("HTTP/1.1 102 Processing\r\n\r\n")]);
            m
        }),
        ("done", || {
            let mut m = machine(connect_goal(false));
            run(&mut m, vec![Event::Begin, Event::DialFailed(Error::Cancelled)]);
            m
        }),
    ];
    let events: [(&str, Make<Event>); 8] = [
        ("begin", || Event::Begin),
        ("dialled", || Event::Dialled),
        ("dial failed", || Event::DialFailed(Error::Cancelled)),
        ("received", || received("HTTP/1.1 401 X\r\n\r\n")),
        ("closed", || Event::Closed(None)),
        ("chosen", || Event::Chosen(7)),
        ("not chosen", || Event::NotChosen(Error::Cancelled)),
        ("deadline", || Event::Deadline),
    ];
    let table: [[&str; 8]; 6] = [
        // begin, dialled, dial failed, received, closed, chosen, not chosen, deadline
        ["tell dial", "", "", "", "", "", "", ""],
        ["", "tell send", "failed:", "", "", "", "", ""],
        ["", "", "", "failed:", "failed:", "", "", "failed:"],
        ["", "", "", "", "", "tell send", "failed:", ""],
        ["", "", "", "failed:", "failed:", "", "", "failed:"],
        ["", "", "", "", "", "", "", ""],
    ];
    for ((phase, make), row) in phases.iter().zip(table) {
        for ((event, fire), expected) in events.iter().zip(row) {
            let mut m = make();
            let actions = names(&m.step(fire(), Instant::now()));
            let words: Vec<_> = actions.iter().map(|a| a.split(' ').next().unwrap()).collect();
            assert_eq!(words.join(" "), expected, "{phase} × {event}");
        }
    }
}

fn any_event() -> impl Strategy<Value = u8> {
    0u8..10
}

proptest! {
    /// However the server's bytes are cut, the same things happen.
    #[test]
    fn the_cut_of_the_stream_does_not_matter(cuts in proptest::collection::vec(1usize..40, 0..60)) {
        let stream = [
            "HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: a\r\n\r\n",
            "HTTP/1.1 102 Processing\nX-QVD-VM-Info: b\n\n",
            KEY,
        ].concat().into_bytes();
        let stream = [stream, b"\0\x01NX bytes HTTP/1.1 500".to_vec()].concat();
        let mut m = at_choosing(connect_goal(false));
        run(&mut m, vec![Event::Chosen(7)]);
        let (mut told, mut at, mut cuts) = (Vec::new(), 0, cuts.into_iter());
        while at < stream.len() && !m.is_done() {
            let end = stream.len().min(at + cuts.next().unwrap_or(stream.len()));
            told.extend(m.step(Event::Received(stream[at..end].to_vec()), Instant::now()));
            at = end;
        }
        let Some(Action::Finish(Outcome::Switched { early, .. })) = told.last() else { panic!("{told:?}") };
        let mut rest = early.clone();
        rest.extend_from_slice(&stream[at..]);
        prop_assert_eq!(&rest, b"\0\x01NX bytes HTTP/1.1 500");
        prop_assert_eq!(names(&told[..3]), ["tell a", "tell b", "tell Connected"]);
    }

    /// Whatever happens in whatever order: one end at most, nothing after it, and a deadline only while waiting.
    #[test]
    fn random_events_keep_the_invariants(
        events in proptest::collection::vec((any_event(), proptest::collection::vec(any::<u8>(), 0..30)), 0..40),
        restart_first in any::<bool>(),
    ) {
        let mut m = machine(connect_goal(restart_first));
        let (mut ends, mut dials, mut dialled) = (0, 0, 0);
        for (kind, bytes) in events {
            let event = match kind {
                0 => Event::Begin,
                1 => { dialled += 1; Event::Dialled }
                2 => Event::DialFailed(Error::Cancelled),
                3 => Event::Received(bytes),
                4 => received(LIST),
                5 => received("HTTP/1.1 200 OK\r\n\r\n"),
                6 => Event::Closed(None),
                7 => Event::Chosen(7),
                8 => Event::NotChosen(Error::Cancelled),
                _ => Event::Deadline,
            };
            let was_done = m.is_done();
            let actions = m.step(event, Instant::now());
            prop_assert!(!was_done || actions.is_empty());
            ends += actions.iter().filter(|a| matches!(a, Action::Finish(_))).count();
            dials += actions.iter().filter(|a| matches!(a, Action::Dial)).count();
            let sends = actions.iter().filter(|a| matches!(a, Action::Send(_))).count();
            prop_assert!(sends <= 1 && (sends == 0 || dials > 0 && dialled > 0));
            prop_assert_eq!(m.is_done(), ends == 1);
            prop_assert!(!m.is_done() || m.deadline().is_none());
        }
    }
}
