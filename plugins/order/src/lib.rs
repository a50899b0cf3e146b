//! The bodies of `order.json`, a flow: load an order, resize its pictures, wait for an approval, bill it, and tell somebody if that failed.
//!
//! Accounts live in `kv`: an account without money lets `bill` fail, until `top_up` gives it some.

use serde::Serialize;
use taskhost_sdk::prelude::*;

/// An order.
#[derive(Debug, Serialize, Schema)]
pub struct Order {
    /// Who pays for it.
    account: String,
    /// Its pictures.
    files: Vec<String>,
}

/// Looks up an order.
#[task]
fn load_order(id: u64) -> TaskResult<Order> {
    Ok(Order { account: format!("account-{id}"), files: (1..=3).map(|n| format!("order-{id}-{n}.png")).collect() })
}

/// Makes a small picture of a large one. Returns its name.
#[task]
fn resize(file: String) -> TaskResult<String> {
    let small = file.strip_suffix(".png").map(|name| format!("{name}-small.png"));
    let small = small.ok_or_else(|| TaskError::invalid_arguments(format!("`{file}` is no PNG")))?;
    kv::set(&format!("picture/{small}"), &true)?;
    Ok(small)
}

/// Removes a small picture: what undoes `resize`.
#[task]
fn unlink(file: String) -> TaskResult<bool> {
    Ok(kv::remove(&format!("picture/{file}"))?)
}

/// Puts money on an account.
#[task]
fn top_up(account: String, amount: i64) -> TaskResult<i64> {
    Ok(kv::increment(&format!("money/{account}"), amount)?)
}

/// Takes the price of the pictures from an account. Returns a receipt.
#[task(retries = 0)]
fn bill(account: String, pictures: Vec<String>) -> TaskResult<String> {
    let key = format!("money/{account}");
    let price = i64::try_from(pictures.len()).unwrap_or(i64::MAX);
    let left = kv::increment(&key, price.saturating_neg())?;
    if left < 0 {
        kv::increment(&key, price)?;
        return Err(TaskError::permanent(format!("{account} has too little money for {price} pictures")));
    }
    Ok(format!("{account} paid {price}"))
}

/// Tells somebody that an order could not be billed.
#[task]
fn alert(why: String) -> TaskResult<String> {
    Ok(format!("not billed: {why}"))
}

export_plugin!(load_order, resize, unlink, top_up, bill, alert);

#[cfg(test)]
mod tests {
    use taskhost_sdk::testing;

    use super::*;

    #[test]
    fn an_account_without_money_does_not_pay() {
        let attempt = testing::attempt();
        let bill = || attempt.run_json::<bill>(r#"["x", ["a", "b"]]"#);
        assert!(!bill().unwrap_err().is_retryable());
        assert_eq!(attempt.run_json::<top_up>(r#"["x", 3]"#).as_deref(), Ok("3"));
        assert_eq!(bill().as_deref(), Ok("\"x paid 2\""));
        assert!(bill().is_err(), "one is left");
    }

    #[test]
    fn what_was_resized_can_be_undone() {
        let attempt = testing::attempt();
        assert_eq!(attempt.run_json::<resize>(r#"["a.png"]"#).as_deref(), Ok("\"a-small.png\""));
        let unlink = || attempt.run_json::<unlink>(r#"["a-small.png"]"#);
        assert_eq!((unlink().as_deref(), unlink().as_deref()), (Ok("true"), Ok("false")));
        assert!(attempt.run_json::<resize>(r#"["a.txt"]"#).is_err());
    }
}
