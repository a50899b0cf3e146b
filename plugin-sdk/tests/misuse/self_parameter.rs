use taskhost_sdk::prelude::*;

#[task]
fn add(&self) -> TaskResult<i64> {
    Ok(1)
}

fn main() {}
