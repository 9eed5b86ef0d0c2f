//! Numbers that look random and repeat with their seed.

/// A small random number generator.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

/// Two numbers made into one that depends on every bit of both.
pub fn mix(a: u64, b: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a.to_le_bytes());
    bytes[8..].copy_from_slice(&b.to_le_bytes());
    twox_hash::XxHash3_64::oneshot(&bytes)
}

impl Rng {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0, 0)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }

    /// Yes or no.
    pub fn coin(&mut self) -> bool {
        self.next_u64() & 1 == 1
    }
}
