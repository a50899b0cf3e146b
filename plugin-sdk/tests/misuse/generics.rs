use taskhost_sdk::prelude::*;

#[task]
fn echo<T: Clone>(value: T) -> TaskResult<T> {
    Ok(value)
}

#[task]
fn show(value: impl ToString) -> TaskResult<String> {
    Ok(value.to_string())
}

fn main() {}
