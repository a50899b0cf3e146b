use taskhost_sdk::prelude::*;

#[task]
fn add((a, b): (i64, i64)) -> TaskResult<i64> {
    Ok(a + b)
}

fn main() {}
