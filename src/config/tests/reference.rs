//! `docs/configuration.md` is made from the documented default and the table of old names. It is written anew by
//! `TIDEGATE_WRITE_REFERENCE=1 cargo test --lib reference`.

use std::fmt::Write;

use super::*;
use crate::config::old_names;

const HEAD: &str = "# Configuration

Every key, its default and what it means; made from [config.toml](../config.toml), which is a test's word for what the binary does without a
file. A key is set in a file (`--config`), by its variable, or, for what has an option, on the command line: defaults < file < environment <
command line. `tidegate check` shows who set what, `tidegate run --print-config` what is in force. Keys that do not exist are refused, and every
problem is told at once, before a port is opened (exit code 64).

Spans of time are written like `800ms`, `30s`, `1h` or `7d`, sizes like `256KiB`, `1MiB` or `4GiB`. Of a list of sections (`[[ai.services]]`)
the variables count from 0: `TIDEGATE__AI__SERVICES__0__MODEL`. *Old name*: the variable of the Celery stack, or of OpenTelemetry, that sets the
key too ([moving-from-celery.md](moving-from-celery.md)).
";

/// A line of TOML, its comment apart; `#` may stand in a string.
fn apart(line: &str) -> (&str, &str) {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted => return (line[..at].trim_end(), line[at + 1..].trim()),
            _ => {}
        }
    }
    (line.trim_end(), "")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn old_name(section: &str, key: &str) -> String {
    let path = format!("{section}.{key}").replace("ai.services.", "ai.services.*.");
    let names = old_names::names().filter(|(_, of)| *of == path).map(|(name, _)| format!("`{name}`"));
    names.collect::<Vec<_>>().join(" ")
}

fn reference() -> String {
    let (mut text, mut section) = (HEAD.to_owned(), String::new());
    for line in DOCUMENTED.lines() {
        let (code, comment) = apart(line);
        if code.starts_with('[') {
            section = code.trim_matches(['[', ']']).to_owned();
            let said = if comment.is_empty() { String::new() } else { format!("\n{comment}\n") };
            let variable = section.to_uppercase().replace('.', "__").replace("AI__SERVICES", "AI__SERVICES__0");
            let _ = write!(text, "\n## `{code}`\n{said}\nVariables begin with `TIDEGATE__{variable}__`.\n\n");
            text.push_str("| key | default | | old name |\n|---|---|---|---|\n");
        } else if let Some((key, default)) = code.split_once(" = ") {
            let old = old_name(&section, key);
            let _ = writeln!(text, "| `{key}` | `{}` | {} | {old} |", cell(default), cell(comment));
        }
    }
    text
}

#[test]
fn the_reference_is_what_the_code_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let made = reference();
    if std::env::var_os("TIDEGATE_WRITE_REFERENCE").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == made, "docs/configuration.md is out of date; the comment above says how it is written anew");
    for name in ["`CACHE_TTL`", "`RATE_LIMIT_BURST`", "`OTEL_EXPORTER_OTLP_ENDPOINT`"] {
        assert!(made.contains(name), "{name}");
    }
}
