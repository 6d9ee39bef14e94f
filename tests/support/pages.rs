//! The documents as the tests read them: their blocks of code, and who runs which. A command that nothing runs has no place there.

use std::path::Path;

/// The pages that tell somebody what to type.
pub const PAGES: [&str; 6] = [
    "README.md",
    "docs/OPERATIONS.md",
    "docs/RECEIVERS.md",
    "docs/DIALECTS.md",
    "docs/PERFORMANCE.md",
    "docs/GUARANTEES.md",
];

/// A block of code.
#[derive(Clone, Debug)]
pub struct Block {
    pub page: &'static str,
    /// The heading that it stands below.
    pub heading: String,
    /// What stands behind the fence.
    pub language: String,
    pub text: String,
}

/// Who runs a block of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// `tests/tour.rs`, as one session beside `serve --dev`.
    Session,
    /// `tests/systemd.rs`, in a machine of its own.
    Machine,
    /// `tests/manual.rs`, against a daemon that runs.
    Daemon,
    /// `tests/manual.rs`, against a daemon and a receiver whose day was bad.
    Incident,
    /// `tests/manual.rs`, as the shell of a receiver.
    Receiver,
    /// What builds, tests and measures: `tests/manual.rs` looks whether there is what it names.
    Build,
}

impl Block {
    /// `None`: nobody runs it.
    pub fn runner(&self) -> Option<Runner> {
        let is_part = |part: &str| self.text.contains(part);
        let begins = |line: &str, words: &[&str]| {
            let line = line.trim_start_matches(capital);
            words.iter().any(|word| line.starts_with(word))
        };
        let all = |words: &[&str]| self.text.lines().all(|line| begins(line, words));
        match (self.page, self.heading.as_str()) {
            ("README.md", "A tour") | ("docs/DIALECTS.md", _) => Some(Runner::Session),
            ("docs/OPERATIONS.md", _) if ["/etc/", "/var/", "systemctl "].into_iter().any(is_part) => {
                Some(Runner::Machine)
            }
            ("docs/OPERATIONS.md", "A receiver was down for a day") => Some(Runner::Incident),
            ("README.md" | "docs/OPERATIONS.md", _) if all(&["curl ", "webhookd "]) => Some(Runner::Daemon),
            ("docs/RECEIVERS.md", "Shell" | "Local development") => Some(Runner::Receiver),
            _ if all(&["cargo ", "bash .ci/"]) => Some(Runner::Build),
            _ => None,
        }
    }

    /// Whether it is something to type into a shell.
    pub fn is_commands(&self) -> bool {
        matches!(self.language.as_str(), "sh" | "console")
    }
}

/// What a variable in front of a command consists of: `LETTERS=1000000 cargo …`.
fn capital(char: char) -> bool {
    char.is_ascii_uppercase() || char.is_ascii_digit() || matches!(char, '=' | '_' | ' ' | '.')
}

/// The text of a page.
pub fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All blocks of a page. A block that is only indented is one without a language.
pub fn blocks(name: &'static str) -> Vec<Block> {
    let (text, mut found) = (page(name), Vec::new());
    let (mut heading, mut open, mut blank) = (String::new(), None::<(usize, Block)>, true);
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (Some((_, block)), Some(_)) if !block.language.is_empty() => {
                found.extend(open.take().map(|(_, block)| block))
            }
            (Some((margin, block)), None) if !block.language.is_empty() => {
                block.text.push_str(line.get(*margin..).unwrap_or_default());
                block.text.push('\n');
            }
            (_, Some(language)) => {
                assert!(!language.is_empty(), "{name}, {heading}: a fence says what is behind it");
                let block =
                    Block { page: name, heading: heading.clone(), language: language.to_owned(), text: String::new() };
                open = Some((indent, block));
            }
            (None, None) => {
                if let Some(title) = line.strip_prefix('#') {
                    heading = title.trim_start_matches('#').trim().to_owned();
                } else if blank && indent >= 4 {
                    let language = String::new();
                    found.push(Block { page: name, heading: heading.clone(), language, text: line.trim().to_owned() });
                }
            }
            (Some(_), None) => unreachable!("only fences open a block"),
        }
        blank = line.trim().is_empty();
    }
    assert!(open.is_none(), "{name}, {heading}: a fence is not closed");
    found
}

/// The blocks of all pages that somebody runs, page by page.
pub fn run_by(runner: Runner) -> Vec<Block> {
    let all = PAGES.into_iter().flat_map(blocks).filter(Block::is_commands);
    all.filter(|block| block.runner() == Some(runner)).collect()
}
