//! Moves departments, business units and staff from the centre to ECF.
//!
//! transfer: GET {CENTER_URL}/KIND?page=N → each new or changed record staged in kv → the number of staged records
//! ecf: staged records that were not pushed yet → PUT {ECF_URL}/KIND/{id} → the number of pushed records
//!
//! Both go on where an earlier attempt stopped: transfer keeps a page cursor for its task, ecf marks each record that it pushed. Repeating a step
//! changes nothing, because staging compares and PUT is idempotent.

mod ecf;
mod record;
mod transfer;

use record::Kind;
use taskhost_sdk::prelude::*;

/// Stages the centre's departments. Returns the number of new and changed ones.
#[task(
    name = "transferDepartment",
    timeout = "5m",
    retries = 5,
    http = "https://hr.example.com",
    env = "CENTER_URL=https://hr.example.com/api"
)]
async fn transfer_department() -> TaskResult<u64> {
    transfer::run(Kind::Department).await
}

/// Stages the centre's business units. Returns the number of new and changed ones.
#[task(name = "transferBU", timeout = "5m", retries = 5, http = "https://hr.example.com", env = "CENTER_URL=https://hr.example.com/api")]
async fn transfer_bu() -> TaskResult<u64> {
    transfer::run(Kind::BusinessUnit).await
}

/// Stages the centre's staff. Returns the number of new and changed records.
#[task(name = "transferStaff", timeout = "5m", retries = 5, http = "https://hr.example.com", env = "CENTER_URL=https://hr.example.com/api")]
async fn transfer_staff() -> TaskResult<u64> {
    transfer::run(Kind::Staff).await
}

/// Pushes departments to ECF that were staged since their last push. Returns their number.
#[task(name = "ecfDepartment", timeout = "5m", retries = 5, http = "https://ecf.example.com", env = "ECF_URL=https://ecf.example.com/api")]
async fn ecf_department() -> TaskResult<u64> {
    ecf::run(Kind::Department).await
}

/// Pushes business units to ECF that were staged since their last push. Returns their number.
#[task(name = "ecfBU", timeout = "5m", retries = 5, http = "https://ecf.example.com", env = "ECF_URL=https://ecf.example.com/api")]
async fn ecf_bu() -> TaskResult<u64> {
    ecf::run(Kind::BusinessUnit).await
}

/// Pushes staff to ECF that were staged since their last push. Returns their number.
#[task(name = "ecfStaff", timeout = "5m", retries = 5, http = "https://ecf.example.com", env = "ECF_URL=https://ecf.example.com/api")]
async fn ecf_staff() -> TaskResult<u64> {
    ecf::run(Kind::Staff).await
}

export_plugin!(transfer_department, transfer_bu, transfer_staff, ecf_department, ecf_bu, ecf_staff);

/// A server's address from the environment, without a slash at its end.
fn base_url(variable: &str) -> TaskResult<String> {
    let url = context::env(variable).or_permanent(format!(
        "{variable} is not set: grant it in the plugin's policy, env = {{ {variable} = \"https://…\" }}, and the host in http = [\"https://…\"]"
    ))?;
    Ok(url.trim_end_matches('/').into())
}

#[cfg(test)]
mod tests;
