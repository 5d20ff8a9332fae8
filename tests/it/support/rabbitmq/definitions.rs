//! Users, virtual hosts and rights, as a server loads them when it starts for the first time.

use std::path::Path;

use serde_json::json;

/// The line of `rabbitmq.conf` that loads them. `guest` may do everything in `/` and nothing in `closed`; `reader` may do
/// nothing with any object, `narrow` everything with what begins with `tg.c.`. Each user's password is the name.
pub fn definitions(folder: &Path) -> String {
    let rights = |user: &str, pattern: &str| json!({ "user": user, "vhost": "/", "configure": pattern, "write": pattern, "read": pattern });
    let user = |name: &str, tags: &str| json!({ "name": name, "password": name, "tags": tags });
    let definitions = json!({
        "vhosts": [{ "name": "/" }, { "name": "closed" }],
        "users": [user("guest", "administrator"), user("reader", ""), user("narrow", "")],
        "permissions": [rights("guest", ".*"), rights("reader", "^$"), rights("narrow", "^tg\\.c\\.")],
    });
    let path = folder.join("definitions.json");
    std::fs::write(&path, definitions.to_string()).expect("it can be written");
    format!("load_definitions = {}\n", path.display())
}
