//! A delayed task that is cancelled before it starts.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{env, error::Error, time::Duration};

use taskhost_client::{Client, ClientError, Request};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "sqlite:taskhost.db".to_owned());
    let client = Client::connect(&address).await?;
    let task = client.enqueue(&Request::new("add", (1, 1)).delay(Duration::from_secs(3600))).await?;
    println!("cancelling {}: {:?}", task.id(), task.cancel().await?);
    match task.wait::<i64>(Duration::from_secs(1)).await {
        Err(ClientError::Failed { state, error, .. }) => println!("it ended {state}: {error}"),
        other => println!("it was not cancelled: {other:?}"),
    }
    Ok(())
}
