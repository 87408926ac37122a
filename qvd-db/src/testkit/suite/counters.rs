//! Counters, the journal, placement decisions.

use std::time::{Duration, SystemTime};

use qvd_core::HostId;
use qvd_core::balance::{Decision, HostSnapshot, VmSnapshot, Weighted};
use qvd_core::model::Properties;
use qvd_core::units::Mebibytes;

use super::case_list;
use crate::sql::{Sql, sql};
use crate::testkit::{Fixture, Site};
use crate::value::params;
use crate::{Claimant, HostCounter, NewEvent, Placement, VmCounter};

case_list![
    counters_lose_nothing_between_writers,
    the_journal_is_read_backwards_and_pruned_by_age,
    placement_decisions_are_kept_in_a_ring,
];

async fn counters_lose_nothing_between_writers(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    let count = |db: crate::Db| async move {
        for _ in 0..20 {
            db.counters().host(world.host, HostCounter::HttpRequests).await.unwrap();
            db.counters().vm(world.vm, VmCounter::RunAttempts).await.unwrap();
        }
    };
    tokio::join!(count(site.db.clone()), count(second));
    site.db.counters().host(world.host, HostCounter::NxOk).await.unwrap();
    site.db.counters().host(HostId::new(99), HostCounter::NxOk).await.unwrap();
    let hosts = site.db.counters().hosts().await.unwrap();
    assert_eq!((hosts[0].http_requests, hosts[0].nx_ok, hosts[0].auth_ok), (40, 1, 0));
    let vms = site.db.counters().vms().await.unwrap();
    assert_eq!((vms[0].vm_id, vms[0].run_attempts, vms[0].run_ok), (world.vm, 40, 0));
}

async fn the_journal_is_read_backwards_and_pruned_by_age(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let events = site.db.events();
    for state in ["starting", "running"] {
        let event = NewEvent {
            host_id: Some(world.host),
            vm_id: Some(world.vm),
            kind: "state".to_owned(),
            to_state: Some(state.to_owned()),
            detail: Some(r#"{"run": 1}"#.to_owned()),
            ..NewEvent::default()
        };
        events.append(event).await.unwrap();
    }
    let read = events.of_vm(world.vm, 10).await.unwrap();
    let states: Vec<_> = read.iter().filter_map(|e| e.event.to_state.as_deref()).collect();
    assert_eq!(states, ["running", "starting"]);
    assert!(read[0].event.detail.as_deref().is_some_and(|d| d.contains("run")));
    assert_eq!(events.of_host(world.host, 1).await.unwrap().len(), 1);
    let age = SystemTime::now().duration_since(read[0].at).unwrap_or_default();
    assert!(age < Duration::from_secs(60), "{age:?}");
    assert_eq!(events.prune(SystemTime::now() - Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(events.prune(SystemTime::now() + Duration::from_secs(3600)).await.unwrap(), 2);
    assert!(events.of_vm(world.vm, 10).await.unwrap().is_empty());
}

const FILL: Sql = sql!("make many placements":
    "with recursive n (i) as (select 1 union all select i + 1 from n where i < 1500)
     insert into placement_decisions (vm_id, plugin, inputs) select $1, 'older', '{}'" AS_JSON " from n");

async fn placement_decisions_are_kept_in_a_ring(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let placements = site.db.placements();
    let vm = VmSnapshot::new(world.vm, Properties::new());
    let balancer = Weighted::new(1.0, 0.0, 1.0);
    let decide = |hosts: &[HostSnapshot]| Decision::make(&balancer, &vm, hosts, &mut || 0.25);
    let first = decide(&[HostSnapshot::new(world.host, "first")]);
    placements.record(world.vm, "default", &first, Some(world.host)).await.unwrap();
    placements.record(world.vm, "default", &decide(&[]), None).await.unwrap();
    let read = placements.of_vm(world.vm, 10).await.unwrap();
    let chosen: Vec<_> = read.iter().map(|p| p.host_id).collect();
    assert_eq!(chosen, [None, Some(world.host)]);
    assert_eq!(read[1].decision, Some(first));
    // The ring holds a thousand and what came since the last trim, whoever they are about.
    site.db.write(&FILL, params![world.vm]).await.unwrap();
    let drivers = ["process".to_owned()];
    let published = site.db.hosts().publish_capacity(
        world.host,
        world.incarnation,
        Mebibytes(4096),
        8000.5,
        &drivers,
        Some("process"),
    );
    assert!(published.await.unwrap().is_updated());
    let hosts = site.db.hosts().candidates(None).await.unwrap();
    assert_eq!((hosts[0].vms, hosts[0].assigned_ram_mib), (0, 0.0));
    for _ in 0..100 {
        placements.record(world.vm, "default", &decide(&hosts), Some(world.host)).await.unwrap();
    }
    let read = placements.of_vm(world.vm, 5000).await.unwrap();
    assert!((1000..1100).contains(&read.len()), "{}", read.len());
    assert_eq!(read[0].host_id, Some(world.host));
    assert_eq!(read[0].decision.as_ref().unwrap().hosts[0].name, "n1");
    assert_eq!(read.last().unwrap().decision, None, "of another version");
    let hosts_of = |placement: &Placement| placement.decision.as_ref().map(|d| d.hosts.clone());
    assert!(!read.iter().any(|p| hosts_of(p).is_some_and(|hosts| hosts.iter().any(|h| h.name == "first"))));
    let latest = placements.latest(3).await.unwrap();
    assert_eq!(latest, read[..3]);
    // What the virtual machines of a host may use is counted by their flavours.
    let claimed = site.db.vms().claim(world.vm, world.host, Claimant::Admin).await.unwrap();
    assert!(claimed.is_updated());
    let hosts = site.db.hosts().candidates(None).await.unwrap();
    let osf = site.db.osfs().load(world.osf).await.unwrap().unwrap();
    assert_eq!((hosts[0].vms, hosts[0].assigned_ram_mib), (1, osf.memory.0 as f64));
}
