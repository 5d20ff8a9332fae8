//! What Zendesk reports of the way of our replies into their channels.

use serde_json::json;

use crate::support::{
    SOON, Scene, eventually,
    webhooks::{delivery, event},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_delivery_is_counted_and_told_by_its_code_alone() {
    let scene = Scene::with("").await;
    let report = |error: serde_json::Value| json!({ "conversation": { "id": "c" }, "message": { "id": "ours" }, "error": error, "isFinalEvent": true });
    let failed = "conversation:message:delivery:failure";
    let words = "could not reach +49 170 1234567";
    let coded = json!({ "code": "uncategorized_error", "message": words, "underlyingError": { "message": words } });
    let events = [
        event("e-coded", failed, &report(coded)),
        event("e-wordy", failed, &report(json!({ "code": words }))),
        event("e-bare", failed, &report(json!(null))),
        event("e-arrived", "conversation:message:delivery:channel", &report(json!(null))),
    ];
    assert_eq!(scene.deliver(delivery(&events)).await.status, 200);
    let causes =
        [("e-coded", json!("uncategorized_error")), ("e-wordy", json!("unknown")), ("e-bare", json!("unknown"))];
    for (id, cause) in causes.into_iter().chain([("e-arrived", json!(null))]) {
        let told = async || scene.daemon.admin(&format!("/admin/messages/{id}")).await;
        eventually(&format!("{id} is recorded"), SOON, async || told().await["outcome"] == "applied").await;
        let told = told().await;
        assert_eq!(told["cause"], cause, "{told}");
        assert!(!told.to_string().contains("1234567"), "{told}");
    }
    for (outcome, count) in [("failed", 3.0), ("delivered", 1.0)] {
        let counted = scene.daemon.metric(&format!("tidegate_delivery_reports_total{{outcome=\"{outcome}\"}}")).await;
        assert!((counted - count).abs() < 0.5, "{outcome}: {counted}");
    }
    assert!(!scene.daemon.log().contains("1234567"));
}
