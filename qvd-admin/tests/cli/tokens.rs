//! Users' tokens: what is listed, what is revoked, and what nobody sees.

use std::time::Duration;

use qvd_core::model::Properties;
use qvd_core::{Secret, TenantId, VmId};
use qvd_db::NewToken;

use crate::transcript::{Site, words};

async fn give(site: &Site, login: &str, token: &str, vm: Option<i64>, multi_use: bool) {
    let user = site.db.users().by_login(TenantId::DEFAULT, login).await.unwrap().unwrap().id;
    let params = Properties::from([("ticket".to_owned(), "t1cket".to_owned())]);
    let lifetime = Duration::from_secs(3600);
    let new = NewToken { user, vm: vm.map(VmId::new), multi_use, lifetime, params };
    site.db.user_tokens().add(&Secret::new(token.to_owned()), &new).await.unwrap();
}

async fn is_good(site: &Site, token: &str) -> bool {
    site.db.user_tokens().redeem(&Secret::new(token.to_owned())).await.unwrap().is_some()
}

/// Ana, who owns machine 1, with two tokens, and Bea with one.
async fn site() -> Site {
    let site = Site::with_one_vm().await;
    site.plays("$ user add login=bea password=x -q\n").await;
    give(&site, "ana", "s3cret-1", None, true).await;
    give(&site, "ana", "s3cret-2", Some(1), false).await;
    give(&site, "bea", "s3cret-3", None, true).await;
    assert!(is_good(&site, "s3cret-3").await);
    site
}

#[tokio::test]
async fn tokens_are_listed_without_what_lets_anybody_in() {
    let site = site().await;
    let answer = site.qa(&words("user tokens list"), "").await;
    let (rows, ends): (Vec<String>, Vec<&str>) = answer
        .out
        .lines()
        .filter(|line| !line.starts_with('-'))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(row, end)| (row.split_whitespace().collect::<Vec<_>>().join(" "), end))
        .unzip();
    // The last column is the time that is left.
    assert_eq!(
        rows,
        ["User Login VM Uses Used Ends", "1 ana - many no", "1 ana 1 one no", "2 bea - many yes"]
    );
    assert!(ends[1..].iter().all(|end| end.matches(':').count() == 2), "{ends:?}");
    let json = site.qa(&words("user tokens list -f login=ana -o json"), "").await.out;
    assert_eq!(json.matches(r#""login":"ana""#).count(), 2, "{json}");
    assert!(json.contains(r#""multi_use":false"#) && json.contains(r#""vm_id":1"#), "{json}");
    for shown in [answer.out.as_str(), &json] {
        for secret in ["s3cret", "t1cket", "digest"] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
    }
}

#[tokio::test]
async fn tokens_are_revoked_by_user_and_only_when_that_is_meant() {
    let site = site().await;
    site.plays(
        "\
$ user tokens revoke
Are you sure you want to revoke the tokens of all users? [y/N] 
! Warning: not confirmed, nothing done (use --force)
$ user tokens revoke -f login=nobody --strict
Revoked 0 token(s) of 0 user(s)
? 3
$ user tokens revoke -f login=ana
Revoked 2 token(s) of 1 user(s)
$ user tokens revoke -f login=ana
Revoked 0 token(s) of 1 user(s)
$ user tokens list -f login=ana -q
",
    )
    .await;
    assert!(!is_good(&site, "s3cret-1").await && !is_good(&site, "s3cret-2").await);
    assert!(is_good(&site, "s3cret-3").await, "another's goes on");
    site.plays(
        "\
$ user tokens revoke --force
Revoked 1 token(s) of 2 user(s)
",
    )
    .await;
    assert!(!is_good(&site, "s3cret-3").await);
}

#[tokio::test]
async fn what_to_do_with_tokens_must_be_said() {
    let site = site().await;
    for words in ["", " revok", " list all"] {
        site.plays(&format!(
            "\
$ user tokens{words}
! Error: either 'list' or 'revoke' must follow (qa user tokens list, qa user tokens revoke)
? 1
"
        ))
        .await;
    }
    assert!(is_good(&site, "s3cret-1").await);
}
