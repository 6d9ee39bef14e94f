//! Tests that need the store's insides: pages over list and tail, the watermark, lines, the queue's counts, how groups are closed,
//! what stands or falls with an op.

mod damage;
mod fresh;
mod guard;
mod inbox;
mod listing;
mod ordering;
mod page;
mod queue;
mod retention;
mod spool;
