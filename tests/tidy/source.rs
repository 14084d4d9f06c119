//! A file of Rust, read as text: what is code in it and what isn't, which paths it names, how long its functions are.
//!
//! It isn't a parser. It knows comments, quotes, braces and the shape of a `use`, which is enough for the rules, and it
//! would rather complain needlessly than miss something.

/// One file.
pub struct Source {
    /// From the repository's root: `src/raft/log.rs`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// What is compiled into the program: no comments, nothing inside quotes, no tests. Blanks stand for them, so that
    /// lines are numbered alike.
    code: Vec<char>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let mut code = without_comments_and_quotes(text);
        let stem = path.rsplit('/').next().unwrap_or(path);
        if stem.ends_with("tests.rs") || path.contains("/tests/") {
            blank(&mut code, 0, usize::MAX);
        }
        blank_tests(&mut code);
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// Its module below the crate: `raft` of `src/raft/log.rs`.
    pub fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
    }

    /// How many modules it is below the crate: 1 for `src/raft/mod.rs`, 2 for `src/raft/log.rs`.
    fn depth(&self) -> usize {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').filter(|part| *part != "mod.rs").count()
    }

    fn line_of(&self, at: usize) -> usize {
        self.code[..at].iter().filter(|letter| **letter == '\n').count() + 1
    }

    /// Lines whose code names `word`, which may be a path: written out, or spread over the braces of a `use`.
    pub fn lines_that_name(&self, word: &str) -> impl Iterator<Item = usize> {
        let mut lines: Vec<usize> = find_words(&self.code, word).into_iter().map(|at| self.line_of(at)).collect();
        if let Some((start, end)) = word.rsplit_once("::") {
            let below = self.paths_below(start).into_iter();
            lines.extend(below.filter(|(_, part)| part == end || part == "*").map(|(line, _)| line));
        }
        lines.sort_unstable();
        lines.dedup();
        lines.into_iter()
    }

    /// What is named directly below `path`, with its lines: `b` and `c` for `a` in `use a::{b, c::d};`.
    pub fn paths_below(&self, path: &str) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for at in find_words(&self.code, path) {
            self.parts_after(at + path.chars().count(), &mut found);
        }
        // `use std::{time::Instant}` has the path itself spread over braces.
        if let Some((start, end)) = path.rsplit_once("::") {
            for at in find_words(&self.code, start) {
                for entry in self.entries(at + start.chars().count()) {
                    if find_words(&self.code[entry..], end).first() == Some(&0) {
                        self.parts_after(entry + end.chars().count(), &mut found);
                    }
                }
            }
        }
        found
    }

    /// The first parts of what follows at `at`, if that is `::`.
    fn parts_after(&self, at: usize, found: &mut Vec<(usize, String)>) {
        for entry in self.entries(at) {
            let word: String = self.code[entry..].iter().take_while(|letter| is_word(**letter)).collect();
            let part = if self.code.get(entry) == Some(&'*') { "*".to_owned() } else { word };
            if !part.is_empty() {
                found.push((self.line_of(entry), part));
            }
        }
    }

    /// Where the entries begin of what follows at `at`, if that is `::`: one, or several in braces.
    fn entries(&self, at: usize) -> Vec<usize> {
        let skip_space = |mut at: usize| {
            while self.code.get(at).is_some_and(|letter| letter.is_whitespace()) {
                at += 1;
            }
            at
        };
        let at = skip_space(at);
        if self.code.get(at) != Some(&':') || self.code.get(at + 1) != Some(&':') {
            return Vec::new();
        }
        let at = skip_space(at + 2);
        if self.code.get(at) != Some(&'{') {
            return vec![at];
        }
        let mut entries = vec![skip_space(at + 1)];
        let mut depth = 0;
        for (offset, letter) in self.code[at..].iter().enumerate() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 1 => break,
                '}' => depth -= 1,
                ',' if depth == 1 => entries.push(skip_space(at + offset + 1)),
                _ => {}
            }
        }
        entries
    }

    /// The crate's modules that are named, by `crate::`, by `jumpgate::` or by enough `super::`, with their lines. `rows`
    /// are those that there are.
    pub fn names_of_modules(&self, rows: &[&str]) -> Vec<(usize, String)> {
        // In a module within the file, `super::` leads less far up; what it meets there isn't called like a row.
        let mut found = self.paths_below(&vec!["super"; self.depth()].join("::"));
        found.retain(|(_, name)| rows.contains(&name.as_str()));
        found.extend(self.paths_below("crate"));
        found.extend(self.paths_below("jumpgate"));
        found.sort();
        found.dedup();
        found
    }

    /// Every function with a body: its name and its lines, from `fn` to the closing brace.
    pub fn functions(&self) -> Vec<(String, usize)> {
        let mut functions = Vec::new();
        for at in find_words(&self.code, "fn") {
            let name: String = self.code[at + 2..]
                .iter()
                .skip_while(|letter| **letter == ' ')
                .take_while(|letter| is_word(**letter))
                .collect();
            let end = end_of_item(&self.code, at);
            // A `fn(…)` type has no name; a function of a trait without a body ends in `;`.
            if !name.is_empty() && self.code.get(end - 1) == Some(&'}') {
                functions.push((name, self.line_of(end - 1) + 1 - self.line_of(at)));
            }
        }
        functions
    }
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Where `word` stands by itself.
fn find_words(code: &[char], word: &str) -> Vec<usize> {
    let word: Vec<char> = word.chars().collect();
    let starts = code.windows(word.len()).enumerate().filter(|(_, window)| *window == word.as_slice());
    let alone = |at: &usize| {
        let before = at.checked_sub(1).is_some_and(|before| is_word(code[before]));
        let after = code.get(at + word.len()).is_some_and(|letter| is_word(*letter))
            && word.last().is_some_and(|letter| is_word(*letter));
        !before && !after
    };
    starts.map(|(at, _)| at).filter(alone).collect()
}

/// The place after the item that begins at `at`: after its closing brace, or after its semicolon.
fn end_of_item(code: &[char], at: usize) -> usize {
    let mut brackets = 0;
    let mut braces = 0;
    for (offset, letter) in code[at..].iter().enumerate() {
        match letter {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            '{' => braces += 1,
            '}' => braces -= 1,
            _ => {}
        }
        let ends = *letter == '}' && braces <= 0 || *letter == ';' && braces == 0;
        if ends && brackets <= 0 {
            return at + offset + 1;
        }
    }
    code.len()
}

/// Blanks out `from..to`, but for ends of lines.
fn blank(code: &mut [char], from: usize, to: usize) {
    let to = to.min(code.len());
    for letter in &mut code[from..to] {
        if *letter != '\n' {
            *letter = ' ';
        }
    }
}

/// Blanks out every item that is compiled for tests only.
fn blank_tests(code: &mut [char]) {
    let attribute: Vec<char> = "#[cfg(test)]".chars().collect();
    let starts: Vec<usize> = code
        .windows(attribute.len())
        .enumerate()
        .filter(|(_, window)| *window == attribute.as_slice())
        .map(|(at, _)| at)
        .collect();
    for start in starts {
        let end = end_of_item(code, start + attribute.len());
        blank(code, start, end);
    }
}

/// The text with blanks for comments and for what is inside of quotes.
fn without_comments_and_quotes(text: &str) -> Vec<char> {
    let mut code: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < code.len() {
        let (next, after) = (code.get(at + 1).copied(), code.get(at + 2).copied());
        let word_before = at > 0 && is_word(code[at - 1]);
        let end = match code[at] {
            '/' if next == Some('/') => end_of_line(&code, at),
            '/' if next == Some('*') => end_of_block_comment(&code, at),
            '"' => end_of_string(&code, at),
            'r' if !word_before || matches!(code[at - 1], 'b' | 'c') => end_of_raw_string(&code, at).unwrap_or(at),
            // A quote is a character's where it closes again; else it is a lifetime's.
            '\'' if next == Some('\\') => {
                let close = code[at + 3..].iter().position(|letter| *letter == '\'');
                close.map_or(code.len(), |offset| at + 3 + offset + 1)
            }
            '\'' if after == Some('\'') => at + 3,
            _ => at,
        };
        if end > at {
            blank(&mut code, at, end);
            at = end;
        } else {
            at += 1;
        }
    }
    code
}

fn end_of_line(code: &[char], at: usize) -> usize {
    code[at..].iter().position(|letter| *letter == '\n').map_or(code.len(), |offset| at + offset)
}

/// Block comments nest.
fn end_of_block_comment(code: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < code.len() {
        match (code[at], code.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    code.len()
}

fn end_of_string(code: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < code.len() {
        match code[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    code.len()
}

/// The end of `r"…"` or `r#"…"#`, where one begins at `start`.
fn end_of_raw_string(code: &[char], start: usize) -> Option<usize> {
    let hashes = code[start + 1..].iter().take_while(|letter| **letter == '#').count();
    let open = start + 1 + hashes;
    if code.get(open) != Some(&'"') {
        return None;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let offset = code[open + 1..].windows(close.len()).position(|window| window == close.as_slice());
    Some(offset.map_or(code.len(), |offset| open + 1 + offset + close.len()))
}
