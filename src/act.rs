//! Owns sending an action to a node and reading its answer; each command knows which action it needs.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cli::NodeArgs;
use crate::connect::{Purpose, Target};

/// Runs `action` on the node and returns the objects that it answers.
///
/// # Errors
/// When the node is not there or refuses, with its words.
pub async fn act(node: &NodeArgs, action: &str, body: &Value) -> Result<Vec<Value>> {
    let target = Target::find(node, Purpose::Query)?;
    let client = target.query_client().await?;
    let results =
        client.action(action, body.to_string().into_bytes()).await.with_context(|| format!("action {action}"))?;
    results
        .iter()
        .map(|bytes| serde_json::from_slice(bytes).with_context(|| format!("action {action}: the answer is not JSON")))
        .collect()
}
