//! Versions of the specification: which ones are spoken, and since when there is which command.

use std::fmt;

use super::{CniError, environment::Command};

/// A version of the CNI specification that the plugin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.0: `ips` name their interface.
    V0_3_0,
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: `ips` have no version of their own any more.
    V1_0_0,
    /// 1.1.0: GC, STATUS, the interfaces' MTU.
    V1_1_0,
}

impl Version {
    /// All, the oldest first.
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// What is answered to who names none.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version that a configuration names.
    ///
    /// # Errors
    /// Code 1 if it names none, or one that is not spoken.
    pub fn of_config(named: Option<&str>) -> Result<Self, CniError> {
        let spoken = || Self::ALL.map(Self::as_str).join(", ");
        let Some(named) = named else {
            return Err(CniError::version(format!(
                "the configuration names no cniVersion: write one of {}",
                spoken()
            )));
        };
        Self::ALL.into_iter().find(|version| version.as_str() == named).ok_or_else(|| {
            CniError::version(format!("cniVersion {named:?} is not spoken: use one of {}", spoken()))
        })
    }

    /// Checks that there is this command in this version.
    ///
    /// # Errors
    /// Code 1 if it came later.
    pub fn check(self, command: Command) -> Result<(), CniError> {
        let since = match command {
            Command::Check => Self::V0_4_0,
            Command::Gc | Command::Status => Self::V1_1_0,
            Command::Add | Command::Del | Command::Version => Self::V0_3_0,
        };
        if self >= since {
            return Ok(());
        }
        Err(CniError::version(format!(
            "there is {command} since cniVersion {since}, and the configuration is of {self}: raise its cniVersion"
        )))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_spoken_or_refused_with_what_is() {
        for version in Version::ALL {
            assert_eq!(Version::of_config(Some(version.as_str())).unwrap(), version);
        }
        for other in [None, Some(""), Some("0.2.0"), Some("1.2.0"), Some("1.0")] {
            let error = Version::of_config(other).unwrap_err();
            assert_eq!(error.code, 1);
            assert!(error.details.contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{error:?}");
        }
    }

    #[test]
    fn commands_are_there_since_the_version_that_brought_them() {
        assert_eq!(Version::V0_3_1.check(Command::Check).unwrap_err().code, 1);
        assert_eq!(Version::V0_4_0.check(Command::Check), Ok(()));
        assert_eq!(Version::V1_0_0.check(Command::Status).unwrap_err().code, 1);
        assert_eq!(Version::V1_1_0.check(Command::Gc), Ok(()));
        assert_eq!(Version::V0_3_0.check(Command::Del), Ok(()));
    }
}
