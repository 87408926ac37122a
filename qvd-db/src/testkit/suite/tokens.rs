//! Users' tokens: a digest, an end, one use or many.

use std::time::{Duration, SystemTime};

use qvd_core::model::Properties;
use qvd_core::{Secret, UserId, VmId};

use super::case_list;
use crate::sql::{Sql, sql};
use crate::testkit::{Fixture, Site};
use crate::value::params;
use crate::{Db, Error, NewToken, Redeemed, UserTokens};

case_list![
    a_token_stands_for_its_login_until_its_end,
    a_token_that_has_ended_is_deleted_when_met_and_when_another_is_made,
    a_token_for_one_use_is_good_for_a_grace_after_it,
    two_uses_at_once_of_a_token_for_one_use_set_one_time,
    a_use_and_a_revocation_at_once,
    a_blocked_users_token_is_not_used_up,
    revoked_tokens_are_gone_and_others_are_not,
    tokens_go_with_their_user_and_their_vm,
    a_user_has_so_many_tokens_and_no_more,
];

const HOUR: Duration = Duration::from_secs(3600);

fn new(user: UserId) -> NewToken {
    NewToken { user, vm: None, multi_use: true, lifetime: HOUR, params: Properties::new() }
}

fn once(user: UserId) -> NewToken {
    NewToken { multi_use: false, ..new(user) }
}

fn text(token: &str) -> Secret<String> {
    Secret::new(token.to_owned())
}

async fn add(db: &Db, token: &str, new: &NewToken) -> SystemTime {
    db.user_tokens().add(&text(token), new).await.unwrap()
}

async fn redeem(db: &Db, token: &str) -> Option<Redeemed> {
    db.user_tokens().redeem(&text(token)).await.unwrap()
}

/// How many rows there are, ended or not.
async fn rows(db: &Db) -> i64 {
    const COUNT: Sql = sql!("count tokens": "select count(*) as n from user_tokens");
    db.read_one(&COUNT, params![]).await.unwrap().unwrap().get("n").unwrap()
}

/// Everything that happened to tokens happened so much earlier.
async fn pass(db: &Db, span: Duration) {
    const BACK: Sql = sql!("date tokens back":
        "update user_tokens set created_at = created_at - $1, expires_at = expires_at - $1, used_at = used_at - $1");
    db.write(&BACK, params![span]).await.unwrap();
}

async fn a_token_stands_for_its_login_until_its_end(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let params = Properties::from([("qvd.vm.user.name".to_owned(), "añá \"x\"".to_owned())]);
    let bound = NewToken { vm: Some(world.vm), params: params.clone(), ..new(world.user) };
    let expires_at = add(&site.db, "token", &bound).await;
    let expected =
        Redeemed { user: world.user, login: "ana".to_owned(), vm: Some(world.vm), expires_at, params };
    for _ in 0..2 {
        assert_eq!(redeem(&site.db, "token").await.as_ref(), Some(&expected));
        pass(&site.db, Duration::ZERO).await;
    }
    assert_eq!(redeem(&site.db, "TOKEN").await, None);
    assert_eq!(redeem(&site.db, "").await, None);
    const STORED: Sql = sql!("look at a token": "select token_digest from user_tokens");
    let stored: String =
        site.db.read_one(&STORED, params![]).await.unwrap().unwrap().get("token_digest").unwrap();
    assert_eq!(stored.len(), 64, "a digest, not the token: {stored}");
    let listed = site.db.user_tokens().list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].login.as_str(), listed[0].vm_id), ("ana", Some(world.vm)));
    assert_eq!(listed[0].expires_at.duration_since(listed[0].created_at).unwrap(), HOUR);
    assert!(listed[0].used_at.is_some() && listed[0].multi_use);
}

async fn a_token_that_has_ended_is_deleted_when_met_and_when_another_is_made(site: Site) {
    let world = Fixture::fill(&site.db).await;
    add(&site.db, "one", &new(world.user)).await;
    add(&site.db, "two", &new(world.user)).await;
    pass(&site.db, HOUR).await;
    assert!(site.db.user_tokens().list().await.unwrap().is_empty());
    assert_eq!(redeem(&site.db, "one").await, None);
    assert_eq!(rows(&site.db).await, 1);
    add(&site.db, "three", &new(world.user)).await;
    assert_eq!(rows(&site.db).await, 1);
    assert!(redeem(&site.db, "three").await.is_some());
}

async fn a_token_for_one_use_is_good_for_a_grace_after_it(site: Site) {
    let world = Fixture::fill(&site.db).await;
    add(&site.db, "once", &once(world.user)).await;
    pass(&site.db, HOUR / 2).await;
    assert!(redeem(&site.db, "once").await.is_some());
    pass(&site.db, UserTokens::GRACE / 2).await;
    assert!(redeem(&site.db, "once").await.is_some(), "a list and the connect behind it");
    pass(&site.db, UserTokens::GRACE / 2).await;
    assert!(site.db.user_tokens().list().await.unwrap().is_empty(), "the second use gave no more time");
    assert_eq!(redeem(&site.db, "once").await, None);
    assert_eq!(rows(&site.db).await, 0);
}

async fn two_uses_at_once_of_a_token_for_one_use_set_one_time(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    for round in 0..6 {
        let token = format!("once {round}");
        add(&site.db, &token, &once(world.user)).await;
        let (one, other) = tokio::join!(redeem(&site.db, &token), redeem(&second, &token));
        assert!(one.is_some() && one == other, "both are within the grace");
        let used = site.db.user_tokens().list().await.unwrap().pop().unwrap().used_at.unwrap();
        assert!(redeem(&second, &token).await.is_some());
        let later = site.db.user_tokens().list().await.unwrap().pop().unwrap().used_at.unwrap();
        assert_eq!(used, later, "the first use alone sets the time");
        assert_eq!(site.db.user_tokens().revoke(&[world.user]).await.unwrap(), 1);
    }
}

async fn a_use_and_a_revocation_at_once(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    for _ in 0..6 {
        add(&site.db, "token", &new(world.user)).await;
        let users = [world.user];
        let (_, revoked) = tokio::join!(redeem(&site.db, "token"), second.user_tokens().revoke(&users));
        assert_eq!(revoked.unwrap(), 1);
        assert_eq!(redeem(&site.db, "token").await, None, "a use does not bring it back");
    }
}

async fn a_blocked_users_token_is_not_used_up(site: Site) {
    let world = Fixture::fill(&site.db).await;
    add(&site.db, "once", &once(world.user)).await;
    assert!(site.db.users().set_blocked(world.user, true).await.unwrap().is_updated());
    assert_eq!(redeem(&site.db, "once").await, None);
    assert!(site.db.users().set_blocked(world.user, false).await.unwrap().is_updated());
    assert!(redeem(&site.db, "once").await.is_some());
}

async fn revoked_tokens_are_gone_and_others_are_not(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let bea = site.db.users().add(qvd_core::TenantId::DEFAULT, "bea", None).await.unwrap();
    add(&site.db, "old", &NewToken { lifetime: HOUR / 2, ..new(world.user) }).await;
    add(&site.db, "used", &once(world.user)).await;
    add(&site.db, "ana", &new(world.user)).await;
    add(&site.db, "bea", &new(bea)).await;
    assert!(redeem(&site.db, "used").await.is_some());
    pass(&site.db, HOUR / 2).await;
    assert_eq!(site.db.user_tokens().revoke(&[world.user]).await.unwrap(), 1, "the others had ended");
    assert_eq!(redeem(&site.db, "ana").await, None);
    assert!(redeem(&site.db, "bea").await.is_some());
    assert_eq!(rows(&site.db).await, 1);
    assert_eq!(site.db.user_tokens().revoke(&[]).await.unwrap(), 0);
}

async fn tokens_go_with_their_user_and_their_vm(site: Site) {
    let world = Fixture::fill(&site.db).await;
    add(&site.db, "bound", &NewToken { vm: Some(world.vm), ..new(world.user) }).await;
    add(&site.db, "free", &new(world.user)).await;
    assert!(site.db.vms().delete(world.vm).await.unwrap().is_updated());
    assert_eq!(redeem(&site.db, "bound").await, None);
    assert!(redeem(&site.db, "free").await.is_some());
    assert!(site.db.users().delete(world.user).await.unwrap().is_updated());
    assert_eq!(redeem(&site.db, "free").await, None);
    let nobodys = site.db.user_tokens().add(&text("x"), &new(world.user)).await;
    assert!(matches!(nobodys, Err(Error::Missing { .. })), "{nobodys:?}");
    let bea = site.db.users().add(qvd_core::TenantId::DEFAULT, "bea", None).await.unwrap();
    let of_no_vm = NewToken { vm: Some(VmId::new(4711)), ..new(bea) };
    let nothings = site.db.user_tokens().add(&text("x"), &of_no_vm).await;
    assert!(matches!(nothings, Err(Error::Missing { .. })), "{nothings:?}");
}

async fn a_user_has_so_many_tokens_and_no_more(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let bea = site.db.users().add(qvd_core::TenantId::DEFAULT, "bea", None).await.unwrap();
    add(&site.db, "bea", &new(bea)).await;
    add(&site.db, "first", &new(world.user)).await;
    for n in 1..UserTokens::MOST_OF_A_USER {
        pass(&site.db, Duration::from_secs(1)).await;
        add(&site.db, &format!("token {n}"), &new(world.user)).await;
    }
    assert!(redeem(&site.db, "first").await.is_some());
    add(&site.db, "one more", &new(world.user)).await;
    assert_eq!(redeem(&site.db, "first").await, None);
    assert!(redeem(&site.db, "token 1").await.is_some() && redeem(&site.db, "one more").await.is_some());
    assert!(redeem(&site.db, "bea").await.is_some());
    let second = site.second().await;
    let further = new(world.user);
    tokio::join!(add(&site.db, "here", &further), add(&second, "there", &further));
    assert_eq!(rows(&site.db).await, i64::from(UserTokens::MOST_OF_A_USER) + 1);
}
