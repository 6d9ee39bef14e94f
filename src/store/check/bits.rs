//! A bit for each number from a first one on.

pub(super) struct Bits {
    first: u64,
    words: Vec<u64>,
}

impl Bits {
    /// None is set.
    pub(super) fn new(first: u64, end: u64) -> Self {
        let words = usize::try_from(end.saturating_sub(first).div_ceil(64)).unwrap_or(usize::MAX);
        Self { first, words: vec![0; words] }
    }

    /// Sets the bit of a number; nothing happens to one outside.
    pub(super) fn set(&mut self, number: u64) {
        if let Some((word, bit)) = self.place(number)
            && let Some(word) = self.words.get_mut(word)
        {
            *word |= bit;
        }
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.place(number).is_some_and(|(word, bit)| self.words.get(word).is_some_and(|word| word & bit != 0))
    }

    fn place(&self, number: u64) -> Option<(usize, u64)> {
        let offset = number.checked_sub(self.first)?;
        Some((usize::try_from(offset / 64).ok()?, 1 << (offset % 64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_is_its_numbers_own() {
        let mut bits = Bits::new(100, 300);
        let set = [100, 163, 164, 299];
        for number in set.into_iter().chain([99, 0, 5_000]) {
            bits.set(number);
        }
        assert_eq!((0..6_000).filter(|number| bits.has(*number)).collect::<Vec<_>>(), set);
    }
}
