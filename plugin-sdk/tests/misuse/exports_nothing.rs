use taskhost_sdk::prelude::*;

export_plugin!();

fn main() {}
