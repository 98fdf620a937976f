//! numpy's legacy `RandomState(seed).shuffle`, bit for bit.
//!
//! MT19937 is seeded by its `init_genrand`; a bounded draw masks 32-bit outputs (64-bit above 2³²−1, high half first)
//! to the smallest `2^k − 1` that covers the bound and rejects what is above it.

const N: usize = 624;
const M: usize = 397;

/// The Mersenne Twister of `numpy.random.RandomState`.
#[derive(Clone)]
pub struct RandomState {
    state: [u32; N],
    next: usize,
}

impl std::fmt::Debug for RandomState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RandomState").field("next", &self.next).finish_non_exhaustive()
    }
}

impl RandomState {
    /// The generator that `numpy.random.RandomState(seed)` makes.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30)).wrapping_mul(1812433253).wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c5680;
        y ^= (y << 15) & 0xefc60000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// A uniform draw from `0..=max`.
    pub fn interval(&mut self, max: u64) -> u64 {
        if max == 0 {
            return 0;
        }
        let mask = u64::MAX >> max.leading_zeros();
        loop {
            let draw = match u32::try_from(max) {
                Ok(_) => self.next_u32() as u64,
                Err(_) => ((self.next_u32() as u64) << 32) | self.next_u32() as u64,
            };
            if draw & mask <= max {
                return draw & mask;
            }
        }
    }

    /// Shuffles in place from the end to the front.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.interval(i as u64) as usize;
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_those_of_the_reference_generator() {
        // The first outputs of MT19937 for the seed 5489, and the 10,000th as the C++ standard fixes it.
        let mut r = RandomState::new(5489);
        assert_eq!([r.next_u32(), r.next_u32()], [3499211612, 581869302]);
        let mut r = RandomState::new(5489);
        assert_eq!((0..10_000).map(|_| r.next_u32()).last(), Some(4123659995));
    }

    #[test]
    fn draws_stay_inside_the_interval_and_reach_its_ends() {
        let mut r = RandomState::new(1);
        let draws: Vec<u64> = (0..200).map(|_| r.interval(5)).collect();
        assert!((0..=5).all(|v| draws.contains(&v)) && draws.iter().all(|&v| v <= 5));
        assert!((0..64).any(|_| r.interval(1 << 40) > u64::from(u32::MAX)));
    }
}
