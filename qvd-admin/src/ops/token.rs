//! Users' tokens.

use qvd_db::UserToken;

use super::Admin;
use super::rows::{Found, UserRow, time};
use crate::error::Result;
use crate::filter::{Fields, Filter, Keys, TOKEN_KEYS, Value};

/// A token that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// What is known of it; not the token.
    pub token: UserToken,
}

impl Fields for TokenRow {
    fn keys() -> &'static Keys {
        &TOKEN_KEYS
    }

    fn field(&self, key: &str) -> Value<'_> {
        match key {
            "user_id" => Value::Integer(self.token.user_id.get()),
            "login" => Value::text(Some(&self.token.login)),
            "vm_id" => Value::integer(self.token.vm_id.map(|vm| vm.get())),
            "multi_use" => Value::Flag(self.token.multi_use),
            "created_at" => time(Some(self.token.created_at)),
            "expires_at" => time(Some(self.token.expires_at)),
            "used_at" => time(self.token.used_at),
            _ => Value::Null,
        }
    }

    fn property(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Admin {
    /// The tokens of the users that match, by user and time.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn user_tokens(&self, filter: &Filter) -> Result<Vec<TokenRow>> {
        let users = self.users(filter).await?;
        let tokens = self.db.user_tokens().list().await?.into_iter().map(|token| TokenRow { token });
        let of_one = |token: &TokenRow| users.iter().any(|user| user.row.user.id == token.token.user_id);
        Ok(tokens.filter(of_one).collect())
    }

    /// Ends all tokens of these users, all or none; yields how many had not ended by themselves. Sessions go on.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn revoke_tokens(&self, users: &[Found<UserRow>]) -> Result<u64> {
        let ids: Vec<_> = users.iter().map(|user| user.row.user.id).collect();
        Ok(self.db.user_tokens().revoke(&ids).await?)
    }
}
