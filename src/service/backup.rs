//! Making a backup while everything goes on. Owns that there is one at a time, that who takes it too slowly loses it, and
//! that what became of it is on record when its taker sees its end.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{sleep, timeout};

use super::Service;
use super::asker::Asker;
use super::error::Error;
use crate::clock::Millis;
use crate::limits::{BACKUP_REST, BACKUP_REST_BUSY, BACKUP_STALL_MAX};
use crate::store::StoreError;
use crate::store::backup::{Copy, CopyError, Summary};
use crate::store::hold::Held;
use crate::store::op::{Guard, Op};
use crate::store::view::Shared;
use crate::store::writer::Store;

/// The outcome on record of a backup that its taker did not get whole.
const CUT_OFF: &str = "cut_off";

/// What comes of a backup, piece by piece: an error is its end, and it is worth nothing then.
pub type Pieces = Receiver<io::Result<Bytes>>;

impl Service {
    /// Begins a backup of everything that is committed by now.
    ///
    /// # Errors
    /// `Error::Conflict` when one is being made, or there is no room beside the store; when the store fails.
    pub async fn backup(&self, asker: &Asker) -> Result<Pieces, Error> {
        let busy = Error::Conflict { code: "backup_running", message: "a backup is being made; one at a time" };
        let held = self.store.shared().hold().take().ok_or(busy)?;
        // What was decided before the low ends of the logs were held is committed when this is answered.
        self.store.submit(Op::Ping, None).await?;
        let (folder, made_ms) = (self.store_file.parent().unwrap_or(Path::new(".")).to_owned(), self.clock.wall_ms());
        let begun = self.store.read(move |shared| Ok(Copy::begin(shared, &folder, made_ms))).await?;
        let copy = begun.map_err(refused)?;
        let (sender, pieces) = mpsc::channel(1);
        let handing = Handing { store: self.store.clone(), pieces: sender, guard: asker.take(), made_ms, _held: held };
        tokio::spawn(handing.run(copy));
        Ok(pieces)
    }
}

fn refused(error: CopyError) -> Error {
    tracing::error!(%error, "no backup");
    match error {
        CopyError::Store(error) => error.into(),
        CopyError::NoRoom => {
            let message = "the disk has too little room for the temporary copy that a backup takes beside the store";
            Error::Conflict { code: "no_room", message }
        }
        CopyError::Disk(_) => Error::Unavailable { retry_after_s: 1 },
    }
}

/// A backup on its way to whoever asked for it.
struct Handing {
    store: Store,
    pieces: Sender<io::Result<Bytes>>,
    /// What is to be put on record with its end.
    guard: Guard,
    made_ms: Millis,
    _held: Held,
}

impl Handing {
    async fn run(self, copy: Copy) {
        tracing::info!("a backup is being made");
        let came = self.hand_over(copy).await;
        let mut guard = self.guard.clone();
        let op = match &came {
            Ok(summary) => {
                tracing::info!(bytes = summary.bytes, "the backup is handed over");
                Op::BackedUp { at_ms: self.made_ms }
            }
            Err(why) => {
                tracing::error!(why, "the backup came to nothing: what was sent of it is no backup");
                if let Some(audit) = &mut guard.audit {
                    CUT_OFF.clone_into(&mut audit.outcome);
                }
                Op::Ping
            }
        };
        if let Err(error) = self.store.submit(Op::Guarded { guard, op: Box::new(op) }, None).await {
            tracing::error!(%error, "the backup is not on record");
        }
        if let Err(why) = came {
            // Who is still there learns that this is no end.
            drop(self.pieces.try_send(Err(io::Error::other(why))));
        }
    }

    async fn hand_over(&self, mut copy: Copy) -> Result<Summary, String> {
        let mut pace = Pace { since: Instant::now(), worked: self.store.worked() };
        loop {
            let next = move |shared: &Shared| {
                let mut copy = copy;
                let piece = copy.next(shared);
                Ok::<_, StoreError>((copy, piece))
            };
            let started = Instant::now();
            let piece;
            (copy, piece) = self.store.read(next).await.map_err(|error| error.to_string())?;
            let took = started.elapsed();
            let Some(piece) = piece.map_err(|error| error.to_string())? else { break };
            self.within_patience(self.pieces.send(Ok(piece))).await?;
            sleep(pace.rest(took, Instant::now(), self.store.worked())).await;
        }
        // The last piece is out when there is room for another.
        self.within_patience(self.pieces.reserve()).await?;
        copy.summary().cloned().ok_or_else(|| "it has no end".to_owned())
    }

    async fn within_patience<T, E>(&self, taken: impl Future<Output = Result<T, E>>) -> Result<T, String> {
        match timeout(BACKUP_STALL_MAX, taken).await {
            Ok(taken) => taken.map_err(|_| "its taker has gone".to_owned()),
            Err(_) => Err(format!("its taker took nothing for {BACKUP_STALL_MAX:?}")),
        }
    }
}

/// How far a backup stands back: publishing and delivering go first.
struct Pace {
    /// When the last rest was decided, and how long the writer had been at work by then.
    since: Instant,
    worked: Duration,
}

impl Pace {
    /// How long to rest after a piece that took so long.
    fn rest(&mut self, took: Duration, now: Instant, worked: Duration) -> Duration {
        let (elapsed, work) = (now.saturating_duration_since(self.since), worked.saturating_sub(self.worked));
        *self = Self { since: now, worked };
        rest_after(took, work.as_secs_f64() / elapsed.max(work).max(Duration::from_micros(1)).as_secs_f64())
    }
}

/// The rest after a piece that took so long, `busy` being the share of its time that the writer was at work, from 0 to 1.
fn rest_after(piece: Duration, busy: f64) -> Duration {
    piece.mul_f64(f64::from(BACKUP_REST) + f64::from(BACKUP_REST_BUSY) * busy.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_stands_back_the_more_the_busier_the_writer_is() {
        let piece = Duration::from_millis(10);
        let rest = |busy| rest_after(piece, busy);
        assert_eq!((rest(0.0), rest(0.5), rest(1.0)), (piece, piece * 7, piece * 13));
        assert_eq!(rest(7.0), rest(1.0), "a clock that stood still");

        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut pace = Pace { since: start, worked: second };
        assert_eq!(pace.rest(piece, start + second, second * 9), piece * 13, "at work for longer than this took");
        assert_eq!(pace.rest(piece, start + second * 3, second * 10), piece * 7, "half of the time");
        assert_eq!(pace.rest(piece, start + second * 4, second * 10), piece, "it has not been at work since");
    }
}
