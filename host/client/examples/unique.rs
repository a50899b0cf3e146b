//! One unfinished task at a time for a key: the second request gets the handle of the first.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{env, error::Error, time::Duration};

use taskhost_client::{Client, Request};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "sqlite:taskhost.db".to_owned());
    let client = Client::connect(&address).await?;
    for _ in 0..2 {
        let request = Request::new("add", (1, 1)).delay(Duration::from_secs(60)).unique_key("report of today", Duration::from_secs(3600));
        let task = client.enqueue(&request).await?;
        println!("{}: {}", task.id(), if task.is_new() { "added" } else { "it waits already" });
    }
    Ok(())
}
