//! `GET /`: the dashboard, hand-written HTML, CSS and ES modules out of the binary. It holds no data of its own: whatever
//! it shows it asks for at `/admin`, with the token it was given.

use axum::{
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};

use super::{extract::Path, problem::Problem};

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! assets {
    ($($name:literal: $kind:expr),* $(,)?) => {
        &[$(($name, $kind, include_str!(concat!("assets/", $name)))),*]
    };
}

/// Name, content type and content of each.
const ASSETS: &[(&str, &str, &str)] = assets!(
    "style.css": "text/css; charset=utf-8",
    "app.js": SCRIPT,
    "api.js": SCRIPT,
    "ui.js": SCRIPT,
    "charts.js": SCRIPT,
    "now.js": SCRIPT,
    "conversations.js": SCRIPT,
    "queues.js": SCRIPT,
    "letters.js": SCRIPT,
    "services.js": SCRIPT,
    "actors.js": SCRIPT,
    "nodes.js": SCRIPT,
    "audit.js": SCRIPT,
);

/// `GET /`
pub async fn page() -> Html<&'static str> {
    Html(include_str!("assets/index.html"))
}

/// `GET /assets/{name}`
pub async fn asset(Path(name): Path<String>) -> Result<Response, Problem> {
    let found = ASSETS.iter().find(|(known, ..)| *known == name);
    let (_, kind, content) =
        found.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no-such-route", "no such part of the dashboard"))?;
    Ok(([(header::CONTENT_TYPE, *kind)], *content).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_page_and_its_modules_name_is_there_and_nothing_comes_from_elsewhere() {
        let page = include_str!("assets/index.html");
        let texts = ASSETS.iter().map(|(_, _, text)| *text).chain([page]);
        for text in texts {
            assert!(!text.contains("https://") && !text.contains("innerHTML"), "{}", &text[..text.len().min(80)]);
            for quoted in text.split(['"', '\'']).filter_map(|quoted| quoted.strip_prefix("/assets/")) {
                assert!(ASSETS.iter().any(|(name, ..)| *name == quoted), "{quoted} is named and not there");
            }
            for quoted in text.split(['"', '\'']).filter_map(|quoted| quoted.strip_prefix("./")) {
                assert!(ASSETS.iter().any(|(name, ..)| *name == quoted), "{quoted} is imported and not there");
            }
        }
    }
}
