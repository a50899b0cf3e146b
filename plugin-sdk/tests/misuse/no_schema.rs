use taskhost_sdk::prelude::*;

#[derive(serde::Deserialize)]
struct Order {
    _id: i64,
}

#[task]
fn place(order: Order) -> TaskResult<()> {
    let _ = order;
    Ok(())
}

#[task]
fn count(n: usize) -> TaskResult<()> {
    let _ = n;
    Ok(())
}

fn main() {}
