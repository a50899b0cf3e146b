use taskhost_sdk::prelude::*;

#[task]
fn add(a: i64) -> TaskResult<i64> {
    Ok(a)
}

#[task(name = "add")]
fn plus(a: i64) -> TaskResult<i64> {
    Ok(a)
}

export_plugin!(add, plus);

fn main() {}
