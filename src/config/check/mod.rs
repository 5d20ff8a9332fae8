//! Whether the values make sense, alone and together; every rule is tried.

mod links;
mod warnings;
mod work;

use std::{ops::RangeInclusive, time::Duration};

use humantime::format_duration;

pub(super) use self::warnings::warnings;
use super::{Config, problem::Problem};

/// Longest span that makes sense anywhere; also keeps sums of spans far from overflowing.
const SPAN_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A rule that does not hold.
#[derive(Debug)]
pub(super) struct Finding {
    /// What is wrong.
    pub(super) problem: Problem,
    /// Other keys that the rule looked at.
    pub(super) with: Vec<String>,
}

/// Returns everything that makes no sense.
pub(super) fn problems(config: &Config) -> Vec<Finding> {
    let mut rules = Rules::default();
    links::check(config, &mut rules);
    work::check(config, &mut rules);
    rules.broken
}

/// Collects the rules that do not hold.
#[derive(Default)]
struct Rules {
    broken: Vec<Finding>,
}

impl Rules {
    fn holds(&mut self, holds: bool, key: &str, wrong: impl Into<String>, remedy: &str) {
        self.together(holds, key, &[], wrong, remedy);
    }

    /// A rule over several keys; the first one is the one to change.
    fn together(&mut self, holds: bool, key: &str, with: &[&str], wrong: impl Into<String>, remedy: &str) {
        if !holds {
            let with = with.iter().map(|key| key.to_string()).collect();
            self.broken.push(Finding { problem: Problem::new(key, wrong, remedy), with });
        }
    }

    fn present(&mut self, text: &str, key: &str, remedy: &str) {
        self.holds(!text.trim().is_empty(), key, "is empty", remedy);
    }

    fn span(&mut self, span: Duration, key: &str, allowed: RangeInclusive<Duration>) {
        let (least, most) = (format_duration(*allowed.start()), format_duration(*allowed.end()));
        let wrong = format!("{} is out of range", format_duration(span));
        self.holds(allowed.contains(&span), key, wrong, &format!("write a time from {least} to {most}"));
    }

    /// A span that may not be 0.
    fn some_time(&mut self, span: Duration, key: &str) {
        self.span(span, key, Duration::from_millis(1)..=SPAN_MAX);
    }

    /// A span that may be 0.
    fn any_time(&mut self, span: Duration, key: &str) {
        self.span(span, key, Duration::ZERO..=SPAN_MAX);
    }

    fn count(&mut self, count: u64, key: &str, allowed: RangeInclusive<u64>) {
        let (least, most) = (allowed.start(), allowed.end());
        let remedy = format!("write a number from {least} to {most}");
        self.holds(allowed.contains(&count), key, format!("{count} is out of range"), &remedy);
    }

    fn rate(&mut self, rate: f64, key: &str) {
        let holds = (0.0..=1.0).contains(&rate);
        self.holds(holds, key, format!("{rate} is not a share"), "write a number from 0 to 1");
    }

    fn url(&mut self, url: &str, key: &str) {
        let parsed = reqwest::Url::parse(url).ok();
        let sound = parsed.is_some_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        // An address may have a password in it, so it is not repeated.
        self.holds(sound, key, "is not an address", "write http://... or https://...");
    }

    /// Names that must be there and differ.
    fn names<'a>(&mut self, names: impl Iterator<Item = &'a str>, list: &str, field: &str) {
        let mut seen = Vec::new();
        for (index, name) in names.enumerate() {
            let key = format!("{list}[{index}].{field}");
            self.present(name, &key, "write a name");
            let first = seen.iter().position(|other| *other == name);
            if let Some(first) = first.filter(|_| !name.is_empty()) {
                let other = format!("{list}[{first}].{field}");
                self.together(false, &key, &[&other], format!("is the same as {other}"), "write another one");
            }
            seen.push(name);
        }
    }
}
