//! Many tasks at once: 1,000 in one step each.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{env, error::Error};

use taskhost_client::{Client, Request};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "sqlite:taskhost.db".to_owned());
    let client = Client::connect(&address).await?;
    let requests: Vec<_> = (0..5_000).map(|number| Request::new("add", (number, 1)).queue("bulk")).collect();
    match client.enqueue_all(&requests).await {
        Ok(tasks) => println!("enqueued {} tasks, the last one is {}", tasks.len(), tasks[tasks.len() - 1].id()),
        // Enqueueing the rest again is safe: each request keeps its id.
        Err(error) => println!("{error}; {} requests are left", requests.len() - error.enqueued.len()),
    }
    Ok(())
}
