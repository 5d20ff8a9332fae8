//! The command `tidegate`, as somebody types it.

use std::process::Command;

/// What a command said and how it ended.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs it to its end, with these arguments and nothing but these variables.
pub async fn tidegate(arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env_clear().envs(variables.iter().copied());
    // It may ask a simulator, which lives in this process.
    let ended = tokio::task::spawn_blocking(move || command.output()).await;
    let ended = ended.expect("nobody gives it up").expect("the command can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
    let code = ended.status.code().expect("it ends by itself");
    Said { code, out: text(ended.stdout), err: text(ended.stderr) }
}

/// The same against a node.
pub async fn tidegate_at(admin: &str, arguments: &[&str]) -> Said {
    tidegate(arguments, &[("TIDEGATE_ADMIN_URL", admin)]).await
}
