use taskhost_sdk::prelude::*;

#[task]
fn add(a: i64) {
    let _ = a;
}

fn main() {}
