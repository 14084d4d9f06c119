//! Text and environment → tables of settings.
//!
//! This layer knows the names of tables and keys ([`TABLES`]) and refuses others; it doesn't know what they mean.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::{DeTable, DeValue};

use super::error::nearest;
use super::{ConfigError, Place, Warning};

/// The tables of a file and the keys of each, in the order in which messages list them.
const TABLES: [(&str, &[&str]); 7] = [
    ("cluster", &["name", "replicas", "min_copies", "partitions", "sync_interval", "replace_after", "demote_after"]),
    ("timing", &["heartbeat", "election", "lease", "down"]),
    ("gateway", &["followers", "hosts", "http", "slow_request", "ftp", "ftp_passive_ports"]),
    ("stream", &["transport", "certificate", "key", "authority"]),
    ("limits", &["key", "value", "memory", "connections"]),
    ("security", &["secret_file", "tls_cert", "tls_key", "tls_authority", "tokens_file"]),
    (NODE, &["id", "pulse", "stream", "gateway", "advertise", "bind_pulse", "bind_stream", "bind_gateway"]),
];

/// The one table that a file has several of.
const NODE: &str = "node";

/// Variables of the program that aren't settings of the file.
const OTHER_VARIABLES: [&str; 8] = [
    "JUMPGATE_NODE",
    "JUMPGATE_URL",
    "JUMPGATE_CACERT",
    "JUMPGATE_TOKEN",
    "JUMPGATE_TOKEN_FILE",
    "JUMPGATE_CONFIG",
    "JUMPGATE_LOG",
    "JUMPGATE_LOG_FORMAT",
];

/// A value as it was written, before anybody knows what it means.
#[derive(Clone, Debug)]
pub(super) enum Raw<'a> {
    /// In quotes, or from the environment.
    Text(&'a str),
    /// A whole number that isn't negative.
    Number(u64),
    /// `["a", "b"]`
    List(Vec<&'a str>),
    /// Something that no setting is: shown by its kind.
    Other(&'static str),
}

impl<'a> Raw<'a> {
    fn of(value: &'a DeValue<'a>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text),
            DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix())
                .map_or(Self::Other("a number below zero or too large"), Self::Number),
            DeValue::Array(items) => items
                .iter()
                .map(|item| item.get_ref().as_str())
                .collect::<Option<_>>()
                .map_or(Self::Other("a list of other things than text"), Self::List),
            DeValue::Float(_) => Self::Other("a number with a fraction"),
            DeValue::Boolean(_) => Self::Other("true or false"),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }

    pub(super) fn as_text(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number, in quotes or not: in the environment everything is text.
    pub(super) fn as_number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        }
    }

    /// A list; one text with commas is a list too.
    pub(super) fn as_list(&self) -> Option<Vec<&'a str>> {
        match self {
            Self::List(items) => Some(items.clone()),
            Self::Text(text) => Some(text.split(',').map(str::trim).collect()),
            _ => None,
        }
    }
}

impl fmt::Display for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::List(items) => write!(f, "{items:?}"),
            Self::Other(kind) => f.write_str(kind),
        }
    }
}

struct Setting<'a> {
    raw: Raw<'a>,
    place: Place,
}

/// One table: the file's settings with the environment's on top.
pub(super) struct Table<'a> {
    /// As messages show it: `[limits]`, `[[node]] 2`.
    title: String,
    /// Where it begins; the whole file where it isn't there.
    place: Place,
    settings: BTreeMap<&'a str, Setting<'a>>,
}

impl<'a> Table<'a> {
    /// The value of `key` where it is set.
    pub(super) fn optional<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Raw<'a>) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let setting = self.settings.get(key);
        setting.map(|setting| read(&setting.raw)).transpose().map_err(|problem| self.error(key, problem))
    }

    /// The value of `key`, which has to be set.
    pub(super) fn required<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Raw<'a>) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        self.optional(key, read)?.ok_or_else(|| self.error(key, "is missing"))
    }

    /// An error about `key`, at its place or, where it isn't set, at the table's.
    pub(super) fn error(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        let place = self.settings.get(key).map_or(&self.place, |setting| &setting.place);
        ConfigError::new(place.clone(), Some(format!("{} {key}", self.title)), problem)
    }
}

/// Everything that was set.
pub(super) struct Settings<'a> {
    file_name: &'a str,
    tables: BTreeMap<&'static str, Table<'a>>,
    nodes: Vec<Table<'a>>,
}

impl<'a> Settings<'a> {
    /// The settings of a parsed file and of the environment. What the environment sets that nobody knows is a warning,
    /// because a shell may carry variables of other releases.
    pub(super) fn read(
        file_name: &'a str,
        text: &'a str,
        file: &'a DeTable<'a>,
        environment: &'a [(String, String)],
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        let source = Source { file_name, text };
        let mut settings = Self {
            file_name,
            tables: TABLES.map(|(name, _)| (name, source.table(format!("[{name}]")))).into_iter().collect(),
            nodes: Vec::new(),
        };
        let mut entries: Vec<_> = file.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let (at, name) = (name.span().start, name.get_ref().as_ref());
            let Some((name, keys)) = TABLES.iter().find(|(known, _)| *known == name) else {
                return Err(source.unknown(at, format!("[{name}]"), "table", name, &TABLES.map(|(known, _)| known)));
            };
            match value.get_ref() {
                DeValue::Array(nodes) if *name == NODE => {
                    for (nth, node) in nodes.iter().enumerate() {
                        let title = format!("[[node]] {}", nth + 1);
                        let Some(entries) = node.get_ref().as_table() else {
                            return Err(source.error(at, title, "has to be a table"));
                        };
                        settings.nodes.push(source.filled(title, node.span().start, keys, entries)?);
                    }
                }
                DeValue::Table(entries) if *name != NODE => {
                    settings.tables.insert(name, source.filled(format!("[{name}]"), at, keys, entries)?);
                }
                _ if *name == NODE => {
                    return Err(source.error(at, "[node]".to_owned(), "write [[node]], once for each node"));
                }
                _ => return Err(source.error(at, format!("[{name}]"), "has to be a table")),
            }
        }
        let warnings = environment.iter().filter_map(|(name, value)| settings.override_with(name, value)).collect();
        Ok((settings, warnings))
    }

    pub(super) fn table(&self, name: &str) -> &Table<'a> {
        self.tables.get(name).expect("every table's name is in TABLES, and each was put in, empty at least")
    }

    pub(super) fn nodes(&self) -> &[Table<'a>] {
        &self.nodes
    }

    /// An error about something that the file lacks or has too much of.
    pub(super) fn error(&self, problem: impl Into<String>) -> ConfigError {
        ConfigError::new(Place::File { file: self.file_name.to_owned() }, None, problem)
    }

    /// Puts one variable of the environment on top of the file's settings. An empty one counts as not set, as compose
    /// files pass variables on that nobody has set.
    fn override_with(&mut self, variable: &'a str, value: &'a str) -> Option<Warning> {
        let name = variable.strip_prefix("JUMPGATE_")?;
        if OTHER_VARIABLES.contains(&variable) {
            return None;
        }
        let setting = TABLES.iter().filter(|(table, _)| *table != NODE).find_map(|(table, keys)| {
            let key = keys.iter().find(|key| name == format!("{table}_{key}").to_uppercase())?;
            Some((*table, *key))
        });
        let Some((table, key)) = setting else {
            return Some(unknown_variable(variable));
        };
        if !value.is_empty() {
            let place = Place::Variable { name: variable.to_owned() };
            let table = self.tables.get_mut(table).expect("every table's name is in TABLES");
            table.settings.insert(key, Setting { raw: Raw::Text(value), place });
        }
        None
    }
}

fn unknown_variable(variable: &str) -> Warning {
    let tables = TABLES.iter().filter(|(table, _)| *table != NODE);
    let settings =
        tables.flat_map(|(table, keys)| keys.iter().map(move |key| format!("JUMPGATE_{table}_{key}").to_uppercase()));
    let known: Vec<String> = settings.chain(OTHER_VARIABLES.map(str::to_owned)).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let hint = nearest(variable, &known).map_or_else(
        || "settings are named JUMPGATE_<TABLE>_<KEY>, such as JUMPGATE_LIMITS_MEMORY".to_owned(),
        |known| format!("did you mean {known}?"),
    );
    Warning(format!("environment variable {variable} is not known and changes nothing; {hint}"))
}

/// A file, for whoever has to say where in it something stands.
pub(super) struct Source<'a> {
    pub(super) file_name: &'a str,
    pub(super) text: &'a str,
}

impl<'a> Source<'a> {
    /// The line of a byte.
    pub(super) fn place(&self, at: usize) -> Place {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        Place::Line { file: self.file_name.to_owned(), line: before.iter().filter(|byte| **byte == b'\n').count() + 1 }
    }

    fn error(&self, at: usize, field: String, problem: impl Into<String>) -> ConfigError {
        ConfigError::new(self.place(at), Some(field), problem)
    }

    fn unknown(&self, at: usize, field: String, kind: &str, name: &str, known: &[&str]) -> ConfigError {
        let hint = nearest(name, known).map_or_else(String::new, |known| format!("did you mean {known}? "));
        self.error(at, field, format!("there is no such {kind}; {hint}allowed are {}", known.join(", ")))
    }

    fn table(&self, title: String) -> Table<'a> {
        Table { title, place: Place::File { file: self.file_name.to_owned() }, settings: BTreeMap::new() }
    }

    fn filled(
        &self,
        title: String,
        at: usize,
        keys: &[&str],
        entries: &'a DeTable<'a>,
    ) -> Result<Table<'a>, ConfigError> {
        let mut table = Table { place: self.place(at), ..self.table(title) };
        let mut entries: Vec<_> = entries.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let (at, key) = (key.span().start, key.get_ref().as_ref());
            if !keys.contains(&key) {
                return Err(self.unknown(at, format!("{} {key}", table.title), "setting", key, keys));
            }
            table.settings.insert(key, Setting { raw: Raw::of(value.get_ref()), place: self.place(at) });
        }
        Ok(table)
    }
}
