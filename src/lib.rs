//! webhookd: a webhook sender in one binary. An event is accepted once it is durable; every subscribed receiver gets it,
//! signed, retried on a backoff schedule; what can't be delivered waits in the dead letters; every attempt is on record.

pub mod clock;
pub mod entropy;
pub mod limits;
pub mod metrics;
pub mod systemd;

pub mod model;

pub mod catalogue;
pub mod circuit;
pub mod render;
pub mod retry;
pub mod sign;

pub mod store;

pub mod egress;

pub mod schedule;

pub mod dispatch;

pub mod service;

pub mod http;

pub mod config;

pub mod settings;

pub mod daemon;
pub mod dev;
pub mod logs;
pub mod pulse;

pub mod reload;

pub mod cli;
