//! What is made of what a cluster tells.

use serde_json::json;

use super::*;

fn warnings(nodes: &Value) -> String {
    let findings = cluster(nodes.as_array().unwrap());
    assert!(findings.iter().all(|finding| finding.ok));
    let warned = findings.iter().filter(|finding| finding.warning);
    warned.map(|finding| finding.detail.as_str()).collect::<Vec<_>>().join("; ")
}

#[test]
fn a_cluster_without_a_majority_or_with_an_alarm_is_warned_of() {
    let sound = |name: &str| json!({ "name": name, "running": true, "partitions": [], "mem_alarm": false });
    assert_eq!(warnings(&json!([sound("a"), sound("b"), sound("c")])), "");
    assert!(warnings(&json!([sound("a"), sound("b")])).contains("a cluster of 2"));
    let table = [
        (json!({ "name": "c", "running": false }), "c: not running"),
        (json!({ "name": "c", "partitions": ["a"] }), "c: cut off"),
        (json!({ "name": "c", "mem_alarm": true }), "c: memory alarm"),
        (json!({ "name": "c", "disk_free_alarm": true }), "c: disk alarm"),
    ];
    for (node, told) in table {
        let said = warnings(&json!([sound("a"), sound("b"), node]));
        assert!(said.starts_with(told) && !said.contains(';'), "{said}");
    }
}
