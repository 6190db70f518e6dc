//! Everything random about triggers: numbers that depend on what they are for, never on the order
//! of calls.

use super::keys::Keys;

/// When a random pattern is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    /// One pattern for all pictures.
    Once,
    /// Another for each picture, by its draw.
    Each,
}

impl Drawn {
    /// Both with their names in the textual form.
    pub const NAMES: [(Self, &str); 2] = [(Self::Once, "once"), (Self::Each, "each")];

    pub(super) fn parse(keys: &mut Keys, default: Self) -> Result<Self, String> {
        keys.name("drawn", &Self::NAMES, default)
    }

    /// What follows the other keys of a trigger.
    pub(super) fn suffix(self, default: Self) -> &'static str {
        match self {
            _ if self == default => "",
            Self::Once => ",drawn=once",
            Self::Each => ",drawn=each",
        }
    }

    /// The pattern of the picture with this draw.
    pub(super) fn noise(self, draw: u64) -> Noise {
        match self {
            Self::Once => Noise(0),
            Self::Each => Noise(mix(mix(draw) ^ 2)), // 0 and 1 decide the place of a patch
        }
    }
}

/// The draw of picture `image` in a poisoned set with this seed: it decides where and with what
/// noise the picture is stamped, whatever was stamped before it. It has 53 bits, which every reader
/// of JSON keeps.
pub fn draw(seed: u64, image: u64) -> u64 {
    mix(mix(seed) ^ image) >> 11
}

/// Sebastiano Vigna's splitmix64: one well-mixed number for each input.
pub(super) fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A noise picture, the same on every machine. 0 is the one of all pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noise(pub(super) u64);

impl Noise {
    fn bits(self, x: u32, y: u32, channel: usize) -> u64 {
        mix(mix(self.0 ^ ((u64::from(y) << 32) | u64::from(x))) ^ channel as u64)
    }

    /// Even over 0-255.
    pub(super) fn byte(self, x: u32, y: u32, channel: usize) -> u8 {
        (self.bits(x, y, channel) >> 56) as u8
    }

    /// Even over [0, 1).
    pub(super) fn uniform(self, x: u32, y: u32, channel: usize) -> f64 {
        (self.bits(x, y, channel) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller 1958).
    pub(super) fn normal(self, x: u32, y: u32, channel: usize) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform(x, y, channel)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(x, y, channel + 4)).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_is_fixed() {
        let fixed = Drawn::Once.noise(77);
        let bytes =
            [(0, 0, 0), (0, 0, 2), (1, 0, 0), (0, 1, 0)].map(|(x, y, c)| fixed.byte(x, y, c));
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf); // the published first number of seed 0
        assert_eq!(bytes, [167, 215, 94, 191], "triggers of old ledgers would change");
    }

    #[test]
    fn the_normal_numbers_are_normal() {
        let noise = Drawn::Each.noise(3);
        let numbers: Vec<f64> =
            (0..40_000).map(|i| noise.normal(i % 200, i / 200, i as usize % 3)).collect();
        let moment = |power| numbers.iter().map(|n| n.powi(power)).sum::<f64>() / 40_000.0;
        assert!(moment(1).abs() < 0.03, "{}", moment(1)); // 6 standard errors
        assert!((moment(2) - 1.0).abs() < 0.05, "{}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.3, "{}", moment(4));
        let far = numbers.iter().filter(|number| number.abs() > 2.0).count();
        assert!((1600..2040).contains(&far), "{far}"); // 4.55%
    }

    #[test]
    fn each_picture_and_each_seed_has_its_own_draw() {
        let draws: std::collections::HashSet<u64> =
            (0..100).flat_map(|seed| (0..100).map(move |image| draw(seed, image))).collect();
        assert_eq!(draws.len(), 10_000);
        assert_ne!(Drawn::Each.noise(1), Drawn::Each.noise(2));
        assert_eq!(Drawn::Once.noise(1), Drawn::Once.noise(2));
    }
}
