//! A typed call: check the arguments, enqueue the task, wait for its result.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{env, error::Error, time::Duration};

use taskhost_client::{Client, ClientError, Request};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "sqlite:taskhost.db".to_owned());
    let client = Client::connect(&address).await?;
    let request = Request::new("add", (20, 22)).timeout(Duration::from_secs(5)).retries(2);
    if let Err(error) = client.check(&request).await {
        println!("a worker with the plugin `math` has never been here: {error}");
    }
    let task = client.enqueue(&request).await?;
    println!("enqueued {}", task.id());
    match task.wait::<i64>(Duration::from_secs(10)).await {
        Ok(sum) => println!("20 + 22 = {sum}"),
        Err(error @ ClientError::TimedOut { .. }) => println!("{error}; is a worker running?"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
