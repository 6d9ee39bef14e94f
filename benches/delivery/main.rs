//! End-to-end benchmark of delivery, with its control: one command runs the best bare forwarder that we can write (A) and
//! the daemon (B) in turns, A B A B, under the same publisher and into the same receivers, and prints what each reached.
//!
//!     cargo bench --bench delivery -- --publishers 1,16,64,256 --receivers 1,10 --seconds 5 --rounds 3
//!
//! With `--scenario` the daemon is its own control: what is large in it against the same without (`scale`).
//!
//! Publisher, receiver, control and daemon are processes of their own; all but the daemon are this binary started again
//! with a hidden subcommand. Every process is ended by its id when its handle is dropped.

mod children;
mod control;
mod daemon;
mod disk;
mod histogram;
mod options;
mod publisher;
mod receiver;
mod report;
mod run;
mod scale;
mod tls;
mod wire;

use options::Options;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("__publisher") => publisher::main(&arguments[1..]),
        Some("__receiver") => receiver::main(&arguments[1..]),
        Some("__control") => control::main(&arguments[1..]),
        _ if arguments.iter().any(|argument| argument == "--bench") => benchmark(&arguments),
        // `cargo test --all-targets` starts benchmarks too, without this flag.
        _ => println!("run it as: cargo bench --bench delivery -- [--help]"),
    }
}

fn benchmark(arguments: &[String]) {
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            std::process::exit(64);
        }
    };
    if let Some(scenario) = options.scenario {
        return scale::measure(&options, scenario);
    }
    let mut cases = Vec::new();
    for &receivers in &options.receivers {
        for &publishers in &options.publishers {
            let case = run::measure(&options, publishers, receivers);
            report::print_case(&case);
            cases.push(case);
        }
    }
    report::print_summary(&cases);
    if let Some(path) = &options.json {
        std::fs::write(path, report::json(&options, &cases)).expect("writing the results");
        println!("results written to {}", path.display());
    }
    if cases.iter().any(run::Case::failed) {
        std::process::exit(1);
    }
}

/// Wall time in microseconds: the one clock that publisher and receiver, two processes, share.
#[allow(clippy::disallowed_methods, reason = "the benchmark measures the machine's own time")]
fn wall_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(since.as_micros()).expect("microseconds fit")
}
