//! A client's link that breaks in the middle of a resume must not cost the desktop.

use std::time::Duration;

use qvd_core::state::XState;

use crate::support::relay::{Cut, Relay};
use crate::support::{Machine, NX, Process, Screen, Setup, eventually, have, runs};

/// Offsets that killed an agent without the guard, and some that never did. `QVD_HANDOVER=full` takes more.
fn cuts() -> Vec<Cut> {
    let mut cuts = vec![
        Cut::Up(60),
        Cut::Up(77_240),
        Cut::Down(79_188),
        Cut::After(Duration::from_millis(50)),
        Cut::After(Duration::from_millis(400)),
    ];
    if std::env::var("QVD_HANDOVER").is_ok_and(|v| v == "full") {
        cuts.extend((1..24).map(|step| Cut::After(Duration::from_millis(50 * step))));
        cuts.extend((0..8).map(|step| Cut::Up(77_000 + 120 * step)));
        cuts.extend((0..8).map(|step| Cut::Down(76_000 + 900 * step)));
        cuts.extend([1, 49, 1000, 20_000, 50_000, 100_000].map(Cut::Up));
        cuts.extend([1, 49, 1000, 20_000, 50_000, 100_000].map(Cut::Down));
    }
    cuts
}

/// An agent that dies on the way is replaced by the next start. One that dies each time is never well.
const ATTEMPTS: usize = 5;

/// Asks for the desktop until it waits for its viewer.
async fn listening(machine: &Machine) {
    for _ in 0..ATTEMPTS {
        machine.ask().await;
        if machine.wait_any(&[XState::Listening, XState::Stopped]).await == XState::Listening {
            return;
        }
    }
    panic!("{ATTEMPTS} agents did not come to listen: {:?}", machine.failure().await);
}

/// Connects a viewer for good.
async fn connected(machine: &Machine, screen: &Screen) -> Process {
    for _ in 0..ATTEMPTS {
        listening(machine).await;
        let viewer = screen.view(&machine.socket());
        let reached = [XState::Connected, XState::Stopped, XState::Suspended];
        if machine.wait_any(&reached).await == XState::Connected {
            return viewer;
        }
    }
    panic!("{ATTEMPTS} viewers were not connected: {:?}", machine.failure().await);
}

/// Resumes the session over a link that breaks at `cut`; whether it came to that.
async fn broken_resume(machine: &Machine, screen: &Screen, cut: Cut) -> bool {
    listening(machine).await;
    let relay = Relay::start(machine.path("link.sock"), machine.socket(), cut);
    let mut viewer: Process = screen.view(relay.socket());
    // A cut that lies behind all traffic does not come by itself.
    let over = async { eventually("the cut", async || relay.is_over().then_some(())).await };
    let _ = tokio::time::timeout(Duration::from_secs(3), over).await;
    let was_cut = relay.was_cut();
    drop(relay);
    viewer.kill();
    was_cut
}

#[tokio::test]
async fn a_link_that_breaks_during_a_resume_costs_no_desktop() {
    if !have(&NX) {
        return;
    }
    let guard = std::env::var("QVD_HANDOVER_GUARD").unwrap_or_else(|_| "auto".to_owned());
    let screen = Screen::start().await;
    let machine = Setup::new().set("vma.nxagent.guard", &guard).start().await;
    let mut viewer = connected(&machine, &screen).await;
    let mut inside = machine.inside_pid().await;
    viewer.kill();
    let (mut kept, mut lost, mut beyond) = (0, 0, 0);
    let cuts = cuts();
    for cut in &cuts {
        let was_cut = broken_resume(&machine, &screen, *cut).await;
        // The next connection must find the same desktop.
        let mut viewer = connected(&machine, &screen).await;
        machine.marker_window().await;
        let now = machine.inside_pid().await;
        if now == inside && runs(inside) {
            if was_cut {
                kept += 1;
            } else {
                let deep = matches!(cut, Cut::Up(10_000..) | Cut::Down(10_000..));
                assert!(deep, "{cut:?} did not come");
                eprintln!("{cut:?} lies behind all that this resume sent");
                beyond += 1;
            }
        } else {
            lost += 1;
            eprintln!("lost at {cut:?}: {:?}", machine.failure().await);
            inside = now;
        }
        viewer.kill();
    }
    eprintln!("cuts={} kept={kept} lost={lost} beyond={beyond} guard={guard}", cuts.len());
    assert!(lost == 0 || guard == "0", "{lost} desktops lost");
}
