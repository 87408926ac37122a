//! What each call does.

use std::process::Stdio;
use std::sync::Arc;

use qvd_core::hook::HookKind;
use qvd_core::proto::query;
use qvd_core::state::XState;
use qvd_core::vma::Params;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::Notify;

use crate::xsession::prepare::{Context, action_pairs};
use crate::xsession::task::XSession;

/// The methods of an agent.
#[derive(Debug)]
pub struct Methods {
    pub(super) context: Arc<Context>,
    pub(super) session: XSession,
    power_off: Arc<Notify>,
}

/// How a call is answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    Result(Value),
    Error(String),
    Unknown,
}

impl Methods {
    /// The methods on this session. `power_off` is notified when the agent is to end because the machine is to
    /// be switched off.
    pub fn new(context: Arc<Context>, session: XSession, power_off: Arc<Notify>) -> Self {
        Self { context, session, power_off }
    }

    pub(super) async fn call(&self, method: &str, query: &[u8]) -> Reply {
        tracing::debug!(method, "call");
        let params = decode(query);
        let result = match method {
            "ping" => Ok(Value::from(1)),
            "x_state" => Ok(state(self.session.view().state)),
            "x_start" => self.session.start(&params).await.map(|()| state(XState::Starting)),
            // The reference answers `starting` when it acted.
            "x_suspend" => self.session.suspend().await.map(|done| match done {
                Ok(()) => state(XState::Starting),
                Err(found) => state(found),
            }),
            "x_stop" => self.session.stop().await.map(|done| match done {
                Ok(()) => state(XState::Stopping),
                Err(found) => state(found),
            }),
            "x_failure" => Ok(self.session.view().failure.map_or(Value::Null, Value::from)),
            "poweroff" => self.poweroff().await,
            "expire" => self.expire(params).await,
            _ => return Reply::Unknown,
        };
        match result {
            Ok(value) => Reply::Result(value),
            Err(message) => {
                tracing::info!(method, message, "call refused");
                Reply::Error(message)
            }
        }
    }

    async fn poweroff(&self) -> Result<Value, String> {
        self.hook(HookKind::PowerOff, Params::new(), "poweroff").await?;
        let Some((program, arguments)) = self.context.settings.poweroff.split_first() else {
            tracing::info!("power off: the agent ends");
            self.power_off.notify_one();
            return Ok(Value::from(0));
        };
        tracing::info!(program, "power off");
        let status = Command::new(program).args(arguments).stdin(Stdio::null()).status().await;
        let status = status.map_err(|error| format!("{program}: {error}"))?;
        Ok(Value::from(status.code().unwrap_or(-1)))
    }

    async fn expire(&self, limits: Params) -> Result<Value, String> {
        self.hook(HookKind::Expire, limits, "expire").await?;
        Ok(if self.context.hooks.is_configured(HookKind::Expire) { Value::from(1) } else { Value::Null })
    }

    async fn hook(&self, kind: HookKind, pairs: Params, action: &str) -> Result<(), String> {
        let pairs = action_pairs(&pairs, self.session.view().state.as_str(), action);
        self.context.hooks.run(kind, &pairs).await.map_err(|error| error.to_string())
    }
}

fn state(state: XState) -> Value {
    Value::from(state.as_str())
}

/// Pairs in the order sent; a name without `=` has an empty value.
fn decode(query: &[u8]) -> Params {
    let text = |bytes: Vec<u8>| match String::from_utf8(bytes) {
        Ok(text) => text,
        // Older clients send what their locale had.
        Err(error) => error.into_bytes().into_iter().map(char::from).collect(),
    };
    query::decode(query)
        .into_iter()
        .map(|pair| (text(pair.name), text(pair.value.unwrap_or_default())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_keep_their_order_and_old_encodings() {
        let pairs = decode(b"b=1&a=%e1&c");
        let expected = [("b", "1"), ("a", "\u{e1}"), ("c", "")];
        assert_eq!(pairs, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }
}
