//! What the command line asks for. Owns defaults and messages; decides nothing.

use std::path::PathBuf;

pub const HELP: &str = "\
cargo bench --bench delivery -- [options]
  --publishers 1,16,64,256  connections that publish in a closed loop
  --receivers 1,10          receivers, each of which gets every event; with 0 the control is a raw append log
  --seconds 5               measured time of one run, after one second of warm-up
  --rounds 3                runs of each kind, control and daemon in turns, each round beginning with another
  --permits 64              requests in flight per receiver
  --bytes 600               size of an event as it is published
  --batch 1                 events in a request
  --tls                     publisher and receivers speak TLS 1.3, with a private authority
  --only control|daemon     leave the others out
  --against BINARY          another build of the daemon, in turns with control and daemon
  --others-max 2            a round in which others took more of the machine, in percent, is done again, at most three times
  --scenario NAME           how it grows, instead of the above: spread (over subscriptions), pending (deliveries for a
                            receiver that is gone), grown (stored events), steady (events that retention keeps);
                            publishers, seconds and rounds count there too
  --count 100000            how many of them
  --store FOLDER            makes the large store there and keeps it; one that is there already is used
  --fill                    only makes it
  --json FILE               write all samples";

/// The things that are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    Control,
    Daemon,
    /// Another build of the daemon.
    Against,
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Daemon => "daemon",
            Self::Against => "against",
        }
    }
}

/// What is large.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    Spread,
    Pending,
    Grown,
    Steady,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub publishers: Vec<usize>,
    pub receivers: Vec<usize>,
    pub seconds: f64,
    pub rounds: usize,
    pub permits: usize,
    pub bytes: usize,
    pub batch: usize,
    pub tls: bool,
    pub subjects: Vec<Subject>,
    pub against: Option<PathBuf>,
    pub others_max: Option<f64>,
    pub json: Option<PathBuf>,
    pub scenario: Option<Scenario>,
    pub count: u64,
    pub store: Option<PathBuf>,
    pub fill: bool,
}

impl Options {
    /// Reads the arguments after `--`; cargo's own `--bench` is skipped.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            publishers: vec![1, 16, 64, 256],
            receivers: vec![1, 10],
            seconds: 5.0,
            rounds: 3,
            permits: 64,
            bytes: 600,
            batch: 1,
            tls: false,
            subjects: vec![Subject::Control, Subject::Daemon],
            against: None,
            others_max: None,
            json: None,
            scenario: None,
            count: 100_000,
            store: None,
            fill: false,
        };
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            let mut value = || rest.next().map(String::as_str).ok_or(format!("{flag} needs a value\n{HELP}"));
            match flag.as_str() {
                "--bench" => {}
                "--tls" => options.tls = true,
                "--fill" => options.fill = true,
                "--scenario" => options.scenario = Some(scenario(value()?)?),
                "--count" => options.count = number(value()?)?,
                "--store" => options.store = Some(PathBuf::from(value()?)),
                "--publishers" => options.publishers = numbers(value()?)?,
                "--receivers" => options.receivers = numbers(value()?)?,
                "--seconds" => options.seconds = number(value()?)?,
                "--rounds" => options.rounds = number(value()?)?,
                "--permits" => options.permits = number(value()?)?,
                "--bytes" => options.bytes = number(value()?)?,
                "--batch" => options.batch = number(value()?)?,
                "--json" => options.json = Some(PathBuf::from(value()?)),
                "--only" => options.subjects = vec![subject(value()?)?],
                "--against" => options.against = Some(PathBuf::from(value()?)),
                "--others-max" => options.others_max = Some(number(value()?)?),
                _ => return Err(format!("unknown argument {flag}\n{HELP}")),
            }
        }
        if options.against.is_some() {
            options.subjects.push(Subject::Against);
        }
        Ok(options)
    }
}

fn subject(text: &str) -> Result<Subject, String> {
    match text {
        "control" => Ok(Subject::Control),
        "daemon" => Ok(Subject::Daemon),
        _ => Err(format!("--only takes control or daemon, not {text}")),
    }
}

fn scenario(text: &str) -> Result<Scenario, String> {
    match text {
        "spread" => Ok(Scenario::Spread),
        "pending" => Ok(Scenario::Pending),
        "grown" => Ok(Scenario::Grown),
        "steady" => Ok(Scenario::Steady),
        _ => Err(format!("--scenario takes spread, pending, grown or steady, not {text}")),
    }
}

fn numbers(text: &str) -> Result<Vec<usize>, String> {
    text.split(',').map(number).collect()
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is not a number that fits here"))
}

/// The value after `flag` in a child's arguments.
pub fn after<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == flag)?;
    arguments.get(at + 1).map(String::as_str)
}

/// The number after `flag` in a child's arguments, which the benchmark itself has written.
pub fn number_after(arguments: &[String], flag: &str) -> usize {
    after(arguments, flag).and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{flag} N is missing"))
}
