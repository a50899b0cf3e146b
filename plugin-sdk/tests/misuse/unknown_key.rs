use taskhost_sdk::prelude::*;

#[task(retry = 5)]
fn add(a: i64) -> TaskResult<i64> {
    Ok(a)
}

#[task(name)]
fn sub(a: i64) -> TaskResult<i64> {
    Ok(a)
}

#[task(queue = "mail", queue = "post")]
fn mul(a: i64) -> TaskResult<i64> {
    Ok(a)
}

fn main() {}
