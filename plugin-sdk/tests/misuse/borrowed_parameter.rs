use taskhost_sdk::prelude::*;

#[task]
fn greet(name: &str) -> TaskResult<String> {
    Ok(name.into())
}

#[task]
fn sum(numbers: &[i64]) -> TaskResult<i64> {
    Ok(numbers.iter().sum())
}

fn main() {}
