use taskhost_sdk::prelude::*;

#[task(timeout = "2 minutes")]
fn a() -> TaskResult<()> {
    Ok(())
}

#[task(retries = "5")]
fn b() -> TaskResult<()> {
    Ok(())
}

#[task(name = "two words")]
fn c() -> TaskResult<()> {
    Ok(())
}

#[task(cron = "9 o'clock")]
fn d() -> TaskResult<()> {
    Ok(())
}

#[task(queue = "")]
fn e() -> TaskResult<()> {
    Ok(())
}

fn main() {}
