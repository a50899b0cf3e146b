//! Tasks that depend on tasks: two at once, then one with both results.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{env, error::Error, time::Duration};

use taskhost_client::{Client, Flow, Step, input};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "sqlite:taskhost.db".to_owned());
    let client = Client::connect(&address).await?;
    let mut flow = Flow::new("sums").input(&5);
    let both = flow.step("both", Step::group([Step::task("add", (input(""), 1)), Step::task("add", (input(""), 2))]));
    flow.step("sum", Step::task("add", (both.part("/0"), both.part("/1"))));
    let flow = client.start_flow(&flow).await?;
    println!("{}: {}", flow.id(), flow.wait::<i64>(Duration::from_secs(30)).await?);
    Ok(())
}
