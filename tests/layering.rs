//! The rows of the crate: a module imports only from rows below its own, and neighbours on a row are strangers.
//!
//! Each file of `src/` is read as tokens (comments and texts left out, tests included), and every path that begins
//! with `crate::` or climbs to the root with `super::` names a module that must lie below.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The modules of each row, lowest first.
const ROWS: [&[&str]; 9] = [
    &["domain"],
    &["telemetry", "tls"],
    &["store"],
    &["broker", "state"],
    &["guard", "client"],
    &["actors"],
    &["http"],
    &["node", "config", "simulate"],
    &["cli"],
];

/// What a row would forbid and is allowed all the same: who, whom, why.
const ALLOWED: [(&str, &str, &str); 1] = [("node", "config", "the node is what the configuration describes")];

/// Modules that import nothing of the crate: a judge who shares the code of the judged shares its mistakes.
const ALONE: [&str; 1] = ["simulate"];

#[test]
fn every_module_imports_only_from_the_rows_below_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = files(&src);
    let mut broken = Vec::new();
    let mut references = 0;
    for file in &files {
        let place = place(file.strip_prefix(&src).expect("the file lies in src"));
        let Some(module) = place.first().filter(|module| !["lib", "main"].contains(&module.as_str())) else { continue };
        let text = fs::read_to_string(file).expect("source is text");
        let found = roots(&tokens(&text), place.len());
        references += found.len();
        broken.extend(
            found.iter().filter_map(|root| judge(module, root).map(|why| format!("{}: {why}", file.display()))),
        );
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
    assert!(files.len() > 100 && references > 100, "{} files, {references} references: is src/ read?", files.len());
}

#[test]
fn every_module_has_exactly_one_row() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let modules: BTreeSet<String> = files(&src)
        .iter()
        .filter_map(|file| place(file.strip_prefix(&src).ok()?).into_iter().next())
        .filter(|module| !["lib", "main"].contains(&module.as_str()))
        .collect();
    let rows: Vec<&str> = ROWS.concat();
    assert_eq!(modules, rows.iter().map(|module| (*module).to_owned()).collect());
    assert_eq!(rows.len(), modules.len(), "a module stands in two rows");
}

/// Why a module may not use this, if it may not.
fn judge(module: &str, root: &str) -> Option<String> {
    let row_of = |name: &str| ROWS.iter().position(|row| row.contains(&name));
    if root == module || ALLOWED.iter().any(|(who, whom, _)| (*who, *whom) == (module, root)) {
        return None;
    }
    if ALONE.contains(&module) {
        return Some(format!("{module} imports nothing of the crate, but names {root}"));
    }
    match (row_of(module), row_of(root)) {
        (Some(own), Some(other)) if other < own => None,
        (Some(own), Some(other)) if other == own => Some(format!("{module} and {root} are neighbours")),
        (Some(_), Some(_)) => Some(format!("{module} imports from {root}, which lies above")),
        _ => Some(format!("{module} names crate::{root}, which is in no row")),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}

/// The path of the module that a file below `src/` is.
fn place(file: &Path) -> Vec<String> {
    let mut path: Vec<String> = file.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let name = path.pop().unwrap_or_default();
    if name != "mod.rs" {
        path.push(name.trim_end_matches(".rs").to_owned());
    }
    path
}

/// The names directly below the crate's root that a file refers to; `depth` is the length of its module's path.
///
/// `*`, `self` and a renamed `crate` are found too: they would hide what is used.
fn roots(tokens: &[String], depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    // The depth of the braces at which each inline module opened.
    let mut modules: Vec<usize> = Vec::new();
    let mut braces = 0;
    let at = |index: usize| tokens.get(index).map_or("", String::as_str);
    let mut index = 0;
    while index < tokens.len() {
        match at(index) {
            "{" => {
                braces += 1;
                if index >= 2 && at(index - 2) == "mod" {
                    modules.push(braces);
                }
            }
            "}" => {
                if modules.last() == Some(&braces) {
                    modules.pop();
                }
                braces -= 1;
            }
            "crate" if at(index + 1) == "::" => found.extend(heads(tokens, index + 2)),
            "crate" if !["(", "in"].contains(&at(index.wrapping_sub(1))) => {
                found.push("crate by another name".to_owned())
            }
            "super" if at(index.wrapping_sub(1)) != "::" || at(index.wrapping_sub(2)) == "self" => {
                let mut climbed = 1;
                while at(index + 1) == "::" && at(index + 2) == "super" {
                    climbed += 1;
                    index += 2;
                }
                if climbed >= depth + modules.len() && at(index + 1) == "::" {
                    found.extend(heads(tokens, index + 2));
                }
            }
            _ => {}
        }
        index += 1;
    }
    found
}

/// The first names of the paths at this place: one, or those of a group in braces.
fn heads(tokens: &[String], start: usize) -> Vec<String> {
    if tokens.get(start).is_none_or(|token| token != "{") {
        return tokens.get(start).cloned().into_iter().collect();
    }
    let mut found = Vec::new();
    let mut depth = 0;
    let mut begins = false;
    for token in &tokens[start..] {
        match token.as_str() {
            "{" => {
                depth += 1;
                begins = depth == 1;
            }
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            "," => begins = depth == 1,
            name if begins => {
                found.push(name.to_owned());
                begins = false;
            }
            _ => {}
        }
    }
    found
}

/// The tokens of Rust source as far as paths need them: words, `::` and single signs; no comments, no texts.
fn tokens(source: &str) -> Vec<String> {
    let text: Vec<char> = source.chars().collect();
    let at = |index: usize| text.get(index).copied().unwrap_or('\0');
    let is_word = |sign: char| sign.is_alphanumeric() || sign == '_';
    let mut found = Vec::new();
    let mut index = 0;
    while index < text.len() {
        let begin = index;
        match (at(index), at(index + 1)) {
            ('/', '/') => index += text[index..].iter().take_while(|sign| **sign != '\n').count(),
            ('/', '*') => index = after_comment(&text, index),
            ('"', _) => index = after_text(&text, index),
            ('r', '"' | '#') if after_raw_text(&text, index).is_some() => {
                index = after_raw_text(&text, index).unwrap_or(index);
            }
            ('\'', '\\') => index += 3 + text[index + 3..].iter().take_while(|sign| **sign != '\'').count() + 1,
            ('\'', _) if at(index + 2) == '\'' => index += 3,
            (':', ':') => {
                found.push("::".to_owned());
                index += 2;
            }
            (sign, _) if is_word(sign) => {
                index += text[index..].iter().take_while(|sign| is_word(**sign)).count();
                // The prefix of a raw name or text is no word of its own.
                let prefix = index - begin <= 2 && ['"', '#'].contains(&at(index)) && at(index - 1) == 'r';
                if prefix {
                    index = after_raw_text(&text, index - 1).unwrap_or(index + 1);
                } else {
                    found.push(text[begin..index].iter().collect());
                }
            }
            (sign, _) => {
                if !sign.is_whitespace() {
                    found.push(sign.to_string());
                }
                index += 1;
            }
        }
    }
    found
}

/// Where a block comment ends; they nest.
fn after_comment(text: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut index = start;
    while index + 1 < text.len() {
        match (text[index], text[index + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                index += 1;
                continue;
            }
        }
        index += 2;
        if depth == 0 {
            return index;
        }
    }
    text.len()
}

fn after_text(text: &[char], start: usize) -> usize {
    let mut index = start + 1;
    while index < text.len() && text[index] != '"' {
        index += if text[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

/// Where the raw text that begins here ends, if one begins here.
fn after_raw_text(text: &[char], start: usize) -> Option<usize> {
    let hashes = text[start + 1..].iter().take_while(|sign| **sign == '#').count();
    let open = start + 1 + hashes;
    if text.get(open) != Some(&'"') {
        return None;
    }
    let closes = |index: usize| {
        text[index] == '"' && text[index + 1..].iter().take(hashes).filter(|s| **s == '#').count() == hashes
    };
    (open + 1..text.len()).find(|index| closes(*index)).map(|index| index + 1 + hashes)
}

/// The checker itself.
mod checker {
    use super::{judge, place, roots, tokens};
    use std::path::Path;

    fn named(source: &str, depth: usize) -> Vec<String> {
        roots(&tokens(source), depth)
    }

    #[test]
    fn a_violation_is_noticed() {
        let table = [
            ("domain", "telemetry"),
            ("store", "broker"),
            ("broker", "state"),
            ("guard", "client"),
            ("actors", "http"),
            ("http", "config"),
            ("http", "node"),
            ("config", "node"),
            ("node", "simulate"),
            ("node", "cli"),
            ("simulate", "domain"),
            ("actors", "prelude"),
            ("actors", "*"),
            ("actors", "crate by another name"),
        ];
        for (module, root) in table {
            assert!(judge(module, root).is_some(), "{module} must not use {root}");
        }
        let fine =
            [("cli", "domain"), ("node", "config"), ("actors", "guard"), ("broker", "broker"), ("http", "state")];
        for (module, root) in fine {
            assert_eq!(judge(module, root), None, "{module} may use {root}");
        }
    }

    #[test]
    fn every_way_to_name_a_module_is_found() {
        let table: [(&str, usize, &[&str]); 14] = [
            ("use crate::http::Config;", 1, &["http"]),
            ("use crate::{http::{Config, node}, broker, state::{self, Shared as S}};", 2, &["http", "broker", "state"]),
            ("fn f() { crate::node::start(); let x: crate::cli::X; }", 3, &["node", "cli"]),
            ("use super::http;", 1, &["http"]),
            ("use super::super::{http, node::X};", 2, &["http", "node"]),
            ("use super::http;", 2, &[]),
            ("mod tests { use super::super::http; }", 1, &["http"]),
            (
                "mod tests { use super::*; mod inner { use super::super::super::node; } } use super::cli;",
                1,
                &["node", "cli"],
            ),
            ("fn f() { if a { b } } mod tests { fn g() { super::super::x::y(); } }", 1, &["x"]),
            ("pub(crate) struct A; pub(in crate::actors) fn b() {}", 2, &["actors"]),
            ("use crate::*; use super::*;", 1, &["*", "*"]),
            ("use crate as root; extern crate self as me;", 2, &["crate by another name", "crate by another name"]),
            ("macro_rules! m { () => { $crate::node::x() } }", 2, &["node"]),
            ("use self::super::http;", 1, &["http"]),
        ];
        for (source, depth, wanted) in table {
            assert_eq!(named(source, depth), wanted, "{source}");
        }
    }

    #[test]
    fn comments_and_texts_name_nothing() {
        let source = r##"
            // use crate::a;
            /* crate::b /* crate::c */ crate::d */
            const T: (&str, &str, &[u8], char) = ("crate::e \" crate::f", r#"crate::g " crate::h"#, br"crate::i", '"');
            fn f<'a>(c: &'a str) -> char { crate::j::x(); '\'' }
            use crate::k;
        "##;
        assert_eq!(named(source, 2), ["j", "k"]);
    }

    #[test]
    fn a_file_is_the_module_it_is_named_for() {
        let table: [(&str, &[&str]); 4] = [
            ("node.rs", &["node"]),
            ("node/build.rs", &["node", "build"]),
            ("broker/mod.rs", &["broker"]),
            ("config/tests/mod.rs", &["config", "tests"]),
        ];
        for (file, wanted) in table {
            assert_eq!(place(Path::new(file)), wanted, "{file}");
        }
    }
}
