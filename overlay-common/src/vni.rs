//! VXLAN network identifier.

use core::num::NonZeroU32;

/// A VXLAN network identifier: 24 bits, never 0 (RFC 7348 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "user",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "u32", into = "u32")
)]
pub struct Vni(NonZeroU32);

impl Vni {
    /// Largest identifier that fits the 24 bits of the header.
    pub const MAX: u32 = (1 << 24) - 1;
    /// First identifier given to a network that names none, as in Docker's overlay driver.
    pub const FIRST_AUTO: u32 = 256;

    /// The identifier with this number, or `None` for 0 and for what exceeds 24 bits.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(n) if number <= Self::MAX => Some(Self(n)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.get()
    }
}

#[cfg(feature = "user")]
mod text {
    use super::Vni;

    /// A number that is no VNI.
    #[derive(Debug, thiserror::Error, PartialEq, Eq)]
    #[error("{0} is no VNI: it must lie between 1 and {max}", max = Vni::MAX)]
    pub struct InvalidVni(pub String);

    impl TryFrom<u32> for Vni {
        type Error = InvalidVni;
        fn try_from(number: u32) -> Result<Self, InvalidVni> {
            Self::new(number).ok_or_else(|| InvalidVni(number.to_string()))
        }
    }

    impl core::str::FromStr for Vni {
        type Err = InvalidVni;
        fn from_str(text: &str) -> Result<Self, InvalidVni> {
            text.parse().ok().and_then(Self::new).ok_or_else(|| InvalidVni(format!("{text:?}")))
        }
    }

    impl core::fmt::Display for Vni {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            self.get().fmt(f)
        }
    }
}
#[cfg(feature = "user")]
pub use text::InvalidVni;

#[cfg(test)]
mod tests {
    use super::Vni;

    #[test]
    fn zero_and_more_than_24_bits_are_no_vni() {
        assert_eq!(Vni::new(0), None);
        assert_eq!(Vni::new(1).map(Vni::get), Some(1));
        assert_eq!(Vni::new(Vni::MAX).map(Vni::get), Some(0xff_ffff));
        assert_eq!(Vni::new(Vni::MAX + 1), None);
    }
}
