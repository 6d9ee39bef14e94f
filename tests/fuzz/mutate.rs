//! Inputs from a corpus: bytes flipped, cut, repeated, spliced, and replaced by what parsers trip over.

use std::time::{Duration, Instant};

use crate::chance::Chance;

const TRIPS: [&[u8]; 26] = [
    b"\0",
    b"\r\n",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"[",
    b"]",
    b"}",
    b",",
    b":",
    b"%00",
    b"//",
    b"..",
    b"@",
    b"#",
    b"-1",
    b"0",
    b"18446744073709551616",
    b"1e309",
    b"\xff\xfe",
    b"\xc3\x28",
    b"\xe2\x80\xae",
    b"null",
    b"true",
    b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
];

const SECONDS: u64 = 20;

/// An input: a seed of the corpus, changed in a few places, spliced with another one at times.
pub fn mutate(chance: &mut Chance, corpus: &[&[u8]]) -> Vec<u8> {
    let mut input = chance.pick(corpus).expect("a corpus").to_vec();
    if chance.percent(15) {
        let other = chance.pick(corpus).expect("a corpus");
        let (at, from) = (chance.index(input.len() + 1), chance.index(other.len() + 1));
        input.truncate(at);
        input.extend_from_slice(&other[from..]);
    }
    for _ in 0..chance.below(5) {
        let at = chance.index(input.len() + 1);
        let end = (at + chance.index(9)).min(input.len());
        match chance.below(6) {
            0 if at < input.len() => input[at] ^= 1 << chance.below(8),
            1 => drop(input.drain(at..end)),
            2 => {
                let part = input[at..end].to_vec();
                let many = 1 + chance.index(40);
                input.splice(at..at, part.repeat(many));
            }
            3 => input.truncate(at),
            4 => drop(input.splice(at..at, chance.bytes::<3>())),
            _ => drop(input.splice(at..end, chance.pick(&TRIPS).expect("a list").iter().copied())),
        }
    }
    input
}

/// Feeds inputs to a target for as long as `FUZZ_SECONDS` say. One that panics is shown.
pub fn fuzz(name: &str, corpus: &[&[u8]], mut target: impl FnMut(&[u8])) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let until = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(SECONDS));
    let seed = number("SEED").unwrap_or(1);
    let mut chance = Chance::new(seed);
    let mut cases = 0;
    let seeds = corpus.iter().map(|seed| seed.to_vec()).collect::<Vec<_>>();
    let mut seeds = seeds.into_iter();
    while Instant::now() < until {
        let input = seeds.next().unwrap_or_else(|| mutate(&mut chance, corpus));
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(&input)));
        if let Err(panic) = run {
            eprintln!("{name}, SEED={seed}, case {cases}: b\"{}\"", input.escape_ascii());
            std::panic::resume_unwind(panic);
        }
        cases += 1;
    }
    println!("{name}: {cases} cases, SEED={seed}");
}
