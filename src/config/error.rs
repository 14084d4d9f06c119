//! What is wrong, where, and what is allowed there.

use std::fmt;

/// Where a setting stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, on a line counted from 1.
    Line {
        /// The file's name, as it was given.
        file: String,
        /// The line.
        line: usize,
    },
    /// Nowhere in a file that should have it.
    File {
        /// The file's name, as it was given.
        file: String,
    },
    /// In an environment variable.
    Variable {
        /// Its name.
        name: String,
    },
    /// In what the caller asked for.
    Argument,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{file}:{line}: "),
            Self::File { file } => write!(f, "{file}: "),
            Self::Variable { name } => write!(f, "environment variable {name}: "),
            Self::Argument => Ok(()),
        }
    }
}

/// A configuration that can't be used. It shows as
/// `cluster.toml:12: [limits] value: "8MiX" is not a size; write …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it stands.
    pub place: Place,
    /// The table and the key, as in `[limits] value`, where it is about one.
    pub field: Option<String>,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

impl ConfigError {
    pub(super) fn new(place: Place, field: Option<String>, problem: impl Into<String>) -> Self {
        Self { place, field, problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// Something that works but probably isn't meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The one of `known` that `word` is probably a slip of.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, nearest) = known.iter().map(|name| (edit_distance(word, name), *name)).min()?;
    // Two slips, but not so many that nothing of a short word is left.
    (distance <= 2 && distance * 2 <= nearest.len()).then_some(nearest)
}

/// Letters to insert, delete or replace to make one word the other (Levenshtein, 1966). Words longer than any setting's
/// name are as far apart as can be, so that a hostile file costs nothing.
fn edit_distance(left: &str, right: &str) -> usize {
    const LONGEST: usize = 64;
    if left.len() > LONGEST || right.len() > LONGEST {
        return usize::MAX / 2;
    }
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (nth, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = nth + 1;
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["replicas", "min_copies", "name", "key"];
        let table = [
            ("replica", Some("replicas")),
            ("mincopies", Some("min_copies")),
            ("nmae", Some("name")),
            ("quorum", None),
            ("kex", Some("key")),
            ("", None),
        ];
        for (word, expected) in table {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(1000), &known), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }
}
