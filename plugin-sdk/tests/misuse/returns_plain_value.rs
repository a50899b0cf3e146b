use taskhost_sdk::prelude::*;

#[task]
fn add(a: i64) -> i64 {
    a
}

fn main() {}
