//! What is known of RabbitMQ's versions.

use super::super::Finding;

type Version = (u32, u32, u32);

/// The first with a time to live and dead-lettering at least once in quorum queues.
const OLDEST: Version = (3, 10, 0);

/// The series that get repairs from the community; only the newest one does (RabbitMQ's `COMMUNITY_SUPPORT.md`). This
/// is what was known in July 2026.
const SUPPORTED: Version = (4, 3, 0);

/// Versions with known faults that concern us, from the first to the last of them.
const FAULTY: [(Version, Version, &str); 4] = [
    ((3, 12, 5), (3, 12, 5), "its makers ask to skip it; 3.12.6 has the repairs"),
    ((3, 13, 3), (3, 13, 3), "its makers ask to skip it; 3.13.6 has the repairs"),
    // Ra 2.15.2, the first release with it is 4.0.7.
    ((4, 0, 0), (4, 0, 6), "the logs of a quorum queue could diverge and lose messages; 4.0.7 has the repair"),
    // rabbitmq/ra 637, and the dead-lettering of quorum queues (rabbitmq-server 16652).
    ((4, 3, 0), (4, 3, 2), "leaders of quorum queues could confirm too early; 4.3.3 has the repair"),
];

/// What is to be said of a version, if anything is.
pub(super) fn finding(node: &str, version: &str) -> Option<Finding> {
    let found = parsed(version)?;
    if found < OLDEST {
        let detail = format!("RabbitMQ {version} at {node} is too old: its queues know no delays");
        return Some(Finding::warn(super::BROKER, detail, "install RabbitMQ 3.10 or newer"));
    }
    if let Some((.., why)) = FAULTY.iter().find(|(first, last, _)| (*first..=*last).contains(&found)) {
        let detail = format!("RabbitMQ {version} at {node} has a known fault: {why}");
        return Some(Finding::warn(super::BROKER, detail, "install a newer release of the series"));
    }
    let detail = format!("RabbitMQ {version} at {node} is of a series that its makers repair no more");
    let remedy = "it works; plan the way to a newer series, or see that your distribution repairs it";
    (found < SUPPORTED).then(|| Finding::note(super::BROKER, detail, remedy))
}

/// `3.10.8`, `4.0.5+1.g3`, `4.3.0-rc.1`.
fn parsed(version: &str) -> Option<Version> {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u32>());
    match [parts.next()?, parts.next()?, parts.next()?] {
        [Ok(major), Ok(minor), Ok(patch)] => Some((major, minor, patch)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_faulty_versions_are_warned_of_and_unsupported_ones_noted() {
        let table = [
            ("3.9.29", true, "too old"),
            ("2.8.4", true, "too old"),
            ("3.10.8", false, "repair no more"),
            ("3.12.5", true, "3.12.6"),
            ("3.12.6", false, "repair no more"),
            ("3.13.3", true, "3.13.6"),
            ("4.0.5", true, "diverge"),
            ("4.0.6+2.gabc", true, "diverge"),
            ("4.0.7", false, "repair no more"),
            ("4.3.2", true, "4.3.3"),
        ];
        for (version, warning, told) in table {
            let finding = finding("h:1", version).unwrap();
            assert!(finding.ok && finding.warning == warning && finding.detail.contains(told), "{version}");
        }
        for version in ["4.3.3", "4.3.4", "5.0.0-rc.1", "", "unknown", "4.x.1"] {
            assert!(finding("h:1", version).is_none(), "{version}");
        }
    }
}
