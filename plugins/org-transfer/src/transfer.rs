//! The centre → kv, page by page.

use std::time::Duration;

use taskhost_sdk::prelude::*;

use crate::{
    base_url,
    record::{Cursor, Kind, Page, Staged, hash_of, id_of},
};

/// The time limit for a page, so that a centre that hangs does not use up the attempt.
const PAGE_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) async fn run(kind: Kind) -> TaskResult<u64> {
    let center = base_url("CENTER_URL")?;
    let task = context::task_id();
    let mut cursor = match kv::get::<Cursor>(&kind.cursor())? {
        Some(cursor) if cursor.task == task => {
            log::field("page", cursor.page).field("staged", cursor.staged).info("goes on where an earlier attempt stopped");
            cursor
        }
        _ => Cursor { task, page: 1, staged: 0 },
    };

    loop {
        context::check_cancelled()?;
        let url = format!("{center}/{}?page={}", kind.word(), cursor.page);
        let page: Page = http::get(url).header("accept", "application/json").timeout(PAGE_TIMEOUT).await?.error_for_status()?.json()?;
        for record in page.items {
            cursor.staged += u64::from(stage(kind, record)?);
        }
        context::progress(cursor.page, None, format!("{} staged", cursor.staged));
        match page.next {
            // With an earlier page as the next, the transfer would never end.
            Some(next) if next <= cursor.page => {
                return Err(TaskError::permanent(format!("page {} of {} names page {next} as the next", cursor.page, kind.word())));
            }
            Some(next) => cursor.page = next,
            None => break,
        }
        // Move the cursor after the page's records. An attempt that dies in between repeats the page and finds no change.
        kv::set(&kind.cursor(), &cursor)?;
    }

    log::field("kind", kind.word()).field("staged", cursor.staged).field("pages", cursor.page).info("transferred");
    kv::remove(&kind.cursor())?;
    Ok(cursor.staged)
}

/// Whether the record was new or changed.
fn stage(kind: Kind, record: serde_json::Map<String, serde_json::Value>) -> TaskResult<bool> {
    let key = kind.key(&id_of(&record)?);
    let hash = hash_of(&record)?;
    let known = kv::get::<Staged>(&key)?;
    if known.as_ref().is_some_and(|known| known.hash == hash) {
        return Ok(false);
    }
    kv::set(&key, &Staged { hash, pushed: known.and_then(|known| known.pushed), record })?;
    Ok(true)
}
