use taskhost_sdk::prelude::*;

#[task]
struct Add;

fn main() {}
