//! `cargo xtask screenshots`: a picture of every page of the dashboard, from a seeded broker.
//!
//! The scenario is in `tests/serve/browser/screenshots.rs`. This file finds what it needs and says where the pictures are.

use anyhow::{Result, bail};
use clap::Args;

use crate::{cargo, packages, plugins, redis, test};

#[derive(Debug, Args)]
pub(crate) struct Order {
    /// Also draw the pictures in docs/images anew
    #[arg(long)]
    docs: bool,
}

pub(crate) fn run(order: &Order) -> Result<()> {
    redis::server()?;
    test::helpers();
    if packages::on_path(&["chromedriver"]).is_none() {
        bail!(
            "pictures need chromedriver and Chromium: install them (Debian: `apt-get install chromium chromium-driver`) and run this again"
        );
    }
    plugins::build(&plugins::Order::default())?;
    let place = cargo::target_dir().join("screenshots");
    let mut call = cargo::command();
    call.env("SCREENSHOTS", &place);
    if order.docs {
        let shown = cargo::root().join("docs/images");
        std::fs::create_dir_all(&shown)?;
        call.env("SCREENSHOTS_SHOWN", shown);
    }
    call.args(["test", "--workspace", "--test", "main", "--", "--ignored", "--exact", "serve::browser::screenshots::every_page_is_drawn"]);
    cargo::finish(&mut call)?;
    say!("the pictures are in {}", place.display());
    Ok(())
}
