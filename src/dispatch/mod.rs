//! Dispatch: takes what was accepted to its receivers. One lane a webhook, so that none slows another.

pub mod glance;
