use taskhost_sdk::prelude::*;

fn add(a: i64) -> TaskResult<i64> {
    Ok(a)
}

export_plugin!(add);

fn main() {}
