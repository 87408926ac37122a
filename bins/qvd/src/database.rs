//! `qvd db …`: the tables of a site.

use qvd_bin_common::{Failure, backend};
use qvd_core::config::Config;
use qvd_db::Db;

/// Makes all tables.
pub(crate) async fn deploy(config: &Config, force: bool) -> Result<(), Failure> {
    let db = Db::connect(&backend(config)?)
        .await
        .map_err(|e| Failure::new(e.kind(), "cannot reach the database").because(e))?;
    db.deploy(force).await.map_err(|e| Failure::new(e.kind(), "cannot make the tables").because(e))?;
    println!("the database has all tables");
    Ok(())
}

/// Reaches the database and looks at its tables.
pub(crate) async fn check(config: &Config) -> Result<(), Failure> {
    let db = Db::open(&backend(config)?)
        .await
        .map_err(|e| Failure::new(e.kind(), "cannot use the database").because(e))?;
    db.health().await.map_err(|e| Failure::new(e.kind(), "the database does not answer").because(e))?;
    println!("the database answers and has all tables");
    Ok(())
}
