//! The task that moves records from memory into the database, and past an outage.
//!
//! While the database answers, records go from the queue to it in batches. When it does not, they go to the spill file at
//! once, so that a crash loses none; the task tries again with growing pauses and then replays the file.

use std::sync::Arc;
use std::time::Duration;

use common::call_record::CallRecord;
use tokio::time::{Instant, sleep_until, timeout};

use super::Shared;

/// Records in one transaction.
const BATCH_MAX: usize = 100;

/// An outage, in words for the log; never with the URL in it.
type Outage = String;

/// Runs until the log is closed and everything is in the database or on disk.
pub(super) async fn run(shared: Arc<Shared>, mut prepared: bool) {
    let mut pause = shared.timing.retry_min;
    let mut away_until: Option<Instant> = None;
    loop {
        let closing = shared.waiting().closed;
        if !closing {
            match away_until {
                Some(at) => tokio::select! {
                    () = shared.wake.notified() => {}
                    () = sleep_until(at) => away_until = None,
                },
                None if prepared && shared.is_idle() => shared.wake.notified().await,
                None => {}
            }
        }
        if away_until.is_some() && !shared.waiting().closed {
            shared.spill_queue();
            continue;
        }
        let closing = shared.waiting().closed;
        match flush(&shared, &mut prepared).await {
            Ok(()) => {
                if pause != shared.timing.retry_min {
                    tracing::info!("the call log's database is back");
                }
                pause = shared.timing.retry_min;
                away_until = None;
            }
            Err(outage) => {
                shared.spill_queue();
                tracing::warn!(%outage, retry_in = ?pause, "the call log's database is away; records wait on disk");
                away_until = Some(Instant::now() + pause);
                pause = (pause * 2).min(shared.timing.retry_max);
            }
        }
        if closing {
            shared.spill_queue();
            return;
        }
    }
}

/// Everything that waits goes into the database, in memory first, then on disk.
async fn flush(shared: &Shared, prepared: &mut bool) -> Result<(), Outage> {
    if !*prepared {
        in_time(shared.timing.database, shared.database.prepare()).await?;
        *prepared = true;
    }
    loop {
        let batch = shared.take_batch(BATCH_MAX);
        if batch.is_empty() {
            break;
        }
        if let Err(outage) = write(shared, &batch).await {
            shared.put_back(batch);
            return Err(outage);
        }
    }
    while let Some(mut replay) = shared.replay().map_err(|error| error.to_string())? {
        loop {
            let batch = replay.batch(BATCH_MAX).map_err(|error| error.to_string())?;
            if batch.is_empty() {
                break;
            }
            write(shared, &batch).await?;
        }
        replay.finish().map_err(|error| error.to_string())?;
    }
    Ok(())
}

async fn write(shared: &Shared, batch: &[CallRecord]) -> Result<(), Outage> {
    // After a timeout nobody knows whether it was committed: it is written again, and its ids keep it from doubling.
    let new = in_time(shared.timing.database, shared.database.insert(batch)).await?;
    shared.metrics.written.inc_by(new);
    Ok(())
}

async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Outage> {
    match timeout(limit, work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("no answer in time".into()),
    }
}
