//! Tests that need the store's insides: pages over list and tail, the watermark, the queue's counts, how groups are closed.

mod fresh;
mod inbox;
mod page;
mod queue;
mod spool;
