//! Fuzz targets (promise 20): whatever comes in, nothing panics, hangs or answers 500. Inputs are mutations of a small
//! corpus, drawn from a seed, on the stable toolchain: for 20 s a target in CI, longer on request.
//!
//!     FUZZ_SECONDS=3600 SEED=7 cargo test --release --test fuzz url_policy -- --nocapture
//!
//! `mutate` makes inputs; `inside` feeds parsers, `outside` the real binary. An input that fails is printed, and joins the
//! corpus of its target.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[path = "store/chance.rs"]
#[allow(dead_code, reason = "shared with the proofs about the store")]
mod chance;
#[path = "fuzz/inside.rs"]
mod inside;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/outside.rs"]
mod outside;
mod support;
