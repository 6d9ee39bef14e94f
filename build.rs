//! What the linker is told: to keep the binary small, which is what an idle daemon's memory mostly is. Owns nothing else.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name, value| var(name).is_ok_and(|set| set == value);
    // Rust links with its own linker there, which knows both.
    let is_known = is("CARGO_CFG_TARGET_ARCH", "x86_64")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu");
    if !is_known || !is("PROFILE", "release") {
        return;
    }
    // Functions that came out the same are one.
    println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    // Half a MiB of addresses to be filled in at the start becomes some KiB. The loader of glibc 2.36 does it; a binary with the C library
    // in it is its own.
    if !var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|all| all.split(',').any(|one| one == "crt-static")) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
