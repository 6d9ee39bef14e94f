//! Processes of the benchmark. Owns their handles: they are spoken to over stdin and stdout, one JSON line for each word,
//! and are killed by their id and waited for when the handle goes.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A child that is killed with its handle.
pub struct Process(Child);

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("starting {:?}: {error}", command.get_program())))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A part of the benchmark that runs in its own process.
pub struct Helper {
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// What it said when it was ready.
    pub ready: Value,
}

impl Helper {
    /// Starts this binary again as `role` and waits until it says that it is ready.
    pub fn spawn<T: Display>(role: &str, arguments: &[T]) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        let mut command = Command::new(program);
        command.arg(role).args(arguments.iter().map(ToString::to_string));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let stdin = process.0.stdin.take().expect("a piped stdin");
        let stdout = BufReader::new(process.0.stdout.take().expect("a piped stdout"));
        let mut helper = Self { process, stdin, stdout, ready: Value::Null };
        helper.ready = helper.answer(role);
        helper
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Says one word and reads the one line that answers it.
    pub fn ask(&mut self, word: &str) -> Value {
        writeln!(self.stdin, "{word}").expect("a helper that listens");
        self.answer(word)
    }

    fn answer(&mut self, to: &str) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a helper that answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("answer to {to}: {error}: {line:?}"))
    }
}

/// Hands the words from stdin on to `heard`, on a thread; ends the process when the benchmark is gone.
pub fn listen(mut heard: impl FnMut(String) + Send + 'static) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            heard(line);
        }
        std::process::exit(0);
    });
}

/// Answers with one line.
pub fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}").expect("a benchmark that listens");
    out.flush().expect("a benchmark that listens");
}

/// Processor time of a process so far, user and system, in microseconds (the kernel counts in steps of 10 ms).
pub fn cpu_us(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the child's stat");
    let after_name = stat.rsplit_once(')').expect("a name in brackets").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number of ticks");
    (ticks(11) + ticks(12)) * 10_000
}

/// Processor time of the whole machine so far: all that was used (or taken by its host), and all that there was, in
/// microseconds.
pub fn machine_us() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").expect("the machine's stat");
    let line = stat.lines().next().expect("a line for all processors");
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in the first two.
    let fields = line.split_whitespace().skip(1).take(8).map(|text| text.parse::<u64>().expect("a number of ticks"));
    let fields: Vec<u64> = fields.collect();
    let all: u64 = fields.iter().sum();
    ((all - fields[3] - fields[4]) * 10_000, all * 10_000)
}

/// Resident memory of a process in KiB: now (`VmRSS`) and at its highest (`VmHWM`).
pub fn memory_kib(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the child's status");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a memory field");
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a size")
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Writes out what is dirty and empties the page cache; false where that is not allowed.
pub fn empty_page_cache() -> bool {
    let synced = Command::new("sync").status().is_ok_and(|status| status.success());
    synced && std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}
