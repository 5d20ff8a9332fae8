//! What is wrong with a configuration, and where a value came from.

use std::fmt;

/// Where a value came from; a later one in this list wins over an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// The configuration file of this name.
    File(String),
    /// A variable of the old stack.
    OldVariable(String),
    /// A variable of OpenTelemetry.
    OtelVariable(String),
    /// A variable `TIDEGATE__...`.
    Variable(String),
    /// The command line.
    Flag,
}

impl Origin {
    /// Orders the layers.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(_) => 1,
            Self::OldVariable(_) => 2,
            Self::OtelVariable(_) => 3,
            Self::Variable(_) => 4,
            Self::Flag => 5,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name) | Self::OldVariable(name) | Self::OtelVariable(name) | Self::Variable(name) => {
                f.write_str(name)
            }
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// One thing that is wrong, said so that it can be put right; never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `ai.services[0].timeout`; empty when the file as a whole is meant.
    pub key: String,
    /// What is wrong, to go on after the key.
    pub wrong: String,
    /// What to write.
    pub remedy: String,
    /// Who set it.
    pub origin: Origin,
}

impl Problem {
    pub(super) fn new(key: impl Into<String>, wrong: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { key: key.into(), wrong: wrong.into(), remedy: remedy.into(), origin: Origin::Default }
    }

    pub(super) fn from(mut self, origin: &Origin) -> Self {
        self.origin = origin.clone();
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.wrong, self.remedy)?;
        match &self.origin {
            Origin::Default => Ok(()),
            origin => write!(f, " (set by {origin})"),
        }
    }
}

/// What a node starts with although it is hardly meant; never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What is set, and what follows from it.
    pub text: String,
    /// What to do about it.
    pub remedy: &'static str,
    /// The node cannot do a part of its work as long as it is so.
    pub hinders: bool,
}

impl Warning {
    /// Something without which the node cannot do a part of its work.
    pub(super) fn missing(text: impl Into<String>) -> Self {
        Self { text: text.into(), remedy: "set it in the file or as TIDEGATE__SECTION__KEY", hinders: true }
    }

    /// Something that may be set on purpose.
    pub(super) fn doubtful(text: impl Into<String>) -> Self {
        Self { text: text.into(), remedy: "if it is meant so, all is well", hinders: false }
    }

    pub(super) fn with_remedy(self, remedy: &'static str) -> Self {
        Self { remedy, ..self }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Refused(pub Vec<Problem>);

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
