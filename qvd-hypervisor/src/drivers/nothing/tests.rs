use super::*;
use qvd_core::RunId;
use qvd_core::hypervisor::Blame;
use tokio::time::Instant;

fn spec(vm: i64, run: i64) -> VmSpec {
    VmSpec::new(VmId::new(vm), RunId::new(run), "desk", "ann")
}

async fn up(driver: &NothingDriver, spec: &VmSpec) -> Arc<dyn RunningVm> {
    driver.prepare(spec).await.unwrap();
    driver.launch(spec).await.unwrap()
}

fn with_fault(at: Step, effect: Effect) -> NothingDriver {
    NothingDriver::new(NothingSettings {
        faults: vec![Fault { at, probability: 1.0, effect }],
        ..NothingSettings::default()
    })
}

#[tokio::test(start_paused = true)]
async fn it_keeps_every_law_of_a_driver() {
    use qvd_core::testkit::conformance::{self, DriverSubject};
    let host = NothingDriver::new(NothingSettings::default());
    conformance::hypervisor(DriverSubject::new(move || Arc::new(host.clone()))).await;
}

#[tokio::test(start_paused = true)]
async fn it_takes_about_as_long_as_it_was_told() {
    let driver = NothingDriver::from_config(&Config::defaults());
    let started = Instant::now();
    let vm = up(&driver, &spec(1, 1)).await;
    assert!((3.5..=6.5).contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
    let asked = Instant::now();
    vm.terminate().await.unwrap();
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert_eq!(vm.exited().await.code, Some(0));
    assert!((3.5..=6.5).contains(&asked.elapsed().as_secs_f64()), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_story_repeats_itself() {
    let tell = || async {
        let driver = NothingDriver::new(NothingSettings {
            faults: vec![Fault { at: Step::Launch, probability: 0.5, effect: Effect::Fail }],
            seed: 42,
            ..NothingSettings::default()
        });
        let mut story = Vec::new();
        for vm in 1..=20 {
            let begun = Instant::now();
            driver.prepare(&spec(vm, 1)).await.unwrap();
            story.push((driver.launch(&spec(vm, 1)).await.is_ok(), begun.elapsed()));
        }
        story
    };
    let story = tell().await;
    assert_eq!(story, tell().await);
    assert!(story.iter().any(|(up, _)| *up) && story.iter().any(|(up, _)| !*up));
}

#[tokio::test(start_paused = true)]
async fn faults_do_what_they_say() {
    let failing = with_fault(Step::Prepare, Effect::Fail);
    assert_eq!(failing.prepare(&spec(1, 1)).await.unwrap_err().blame(), Blame::Host);

    let hanging = with_fault(Step::Cleanup, Effect::Hang);
    assert!(tokio::time::timeout(Duration::from_secs(3600), hanging.cleanup(VmId::new(1))).await.is_err());

    let mortal = with_fault(Step::Launch, Effect::DieAfter(Duration::from_secs(60)));
    let vm = up(&mortal, &spec(1, 1)).await;
    let begun = Instant::now();
    vm.exited().await;
    assert_eq!(begun.elapsed().as_secs(), 60);

    let stubborn = with_fault(Step::Kill, Effect::Stubborn);
    let vm = up(&stubborn, &spec(1, 1)).await;
    let refused = vm.kill(Duration::from_secs(10)).await.unwrap_err();
    assert!(matches!(refused, HypervisorError::StillAlive { .. }), "{refused}");
    assert!(matches!(stubborn.cleanup(VmId::new(1)).await, Err(HypervisorError::Busy { .. })));
    vm.kill(Duration::from_secs(130)).await.unwrap();
    stubborn.cleanup(VmId::new(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shared_storage_refuses_or_remembers_a_second_opener() {
    let on = |node: &str, storage: &Arc<ShadowStorage>| {
        NothingDriver::new(NothingSettings {
            node: node.into(),
            storage: storage.clone(),
            ..NothingSettings::default()
        })
    };
    let locked = Arc::new(ShadowStorage::locking());
    let (one, two) = (on("n1", &locked), on("n2", &locked));
    let vm = up(&one, &spec(1, 1)).await;
    two.prepare(&spec(1, 2)).await.unwrap();
    let refused = two.launch(&spec(1, 2)).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, HypervisorError::HomeInUse { holder, .. } if holder.contains("n1")),
        "{refused}"
    );
    vm.kill(Duration::ZERO).await.unwrap();
    two.launch(&spec(1, 2)).await.unwrap();
    assert!(locked.violations().is_empty());

    let open = Arc::new(ShadowStorage::without_locks());
    let (one, two) = (on("n1", &open), on("n2", &open));
    up(&one, &spec(1, 1)).await;
    up(&two, &spec(1, 2)).await;
    assert_eq!(open.violations(), ["VM 1: opened by run 2 on host 'n2' while open for run 1 on host 'n1'"]);
}

#[test]
fn machines_have_an_agent_where_a_test_puts_one() {
    let key = "internal.hkd.nothing.endpoints";
    let config = Config::builder().set(key, "/srv/agents").build().unwrap();
    let driver = NothingDriver::from_config(&config);
    assert!(driver.capabilities().has_agent);
    assert_eq!(driver.shared.settings.endpoints, PathBuf::from("/srv/agents"));
    assert!(!NothingDriver::from_config(&Config::defaults()).capabilities().has_agent);
}
