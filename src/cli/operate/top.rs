//! `tidegate top`: how things stand, live on a full screen.

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Cell, Paragraph, Row, Sparkline, Table, Wrap},
};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{Error, Node, Reach, items, span, text};

/// How often the node is asked.
const EVERY: Duration = Duration::from_secs(1);

/// How long a key may go unheard.
const LISTEN: Duration = Duration::from_millis(100);

/// How long the node may take to tell how things stand.
const LOOKS_WITHIN: Duration = Duration::from_secs(2);

/// What is drawn over the last minutes.
const FLOWS: [(&str, &str); 4] =
    [("accepted", "Taken in"), ("answered", "Answered"), ("failed", "Failures"), ("parked", "Given up")];

/// Options of `tidegate top`.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    reach: Reach,
}

pub(in crate::cli) fn top(options: &Options) -> ExitCode {
    options.reach.run(async |node| {
        if node.json {
            return lines(node).await;
        }
        if !std::io::stdout().is_terminal() {
            let detail =
                "top needs a terminal; --json prints a line each second, `tidegate explain` and `queues` print once";
            return Err(Error::Refused(detail.into()));
        }
        let mut terminal = ratatui::init();
        let watched = watch(node, &mut terminal).await;
        ratatui::restore();
        watched
    })
}

async fn lines(node: &Node) -> Result<(), Error> {
    loop {
        println!("{}", node.get("/admin/overview").await?);
        tokio::time::sleep(EVERY).await;
    }
}

async fn watch(node: &Node, terminal: &mut ratatui::DefaultTerminal) -> Result<(), Error> {
    let broken = |error: std::io::Error| Error::Refused(format!("the terminal: {error}"));
    let mut overview = look(node).await?;
    let (mut asked, mut trouble) = (Instant::now(), None);
    loop {
        terminal.draw(|frame| draw(frame, &overview, trouble.as_deref())).map_err(broken)?;
        if tokio::task::block_in_place(is_asked_to_end).map_err(broken)? {
            return Ok(());
        }
        if asked.elapsed() >= EVERY {
            asked = Instant::now();
            match look(node).await {
                Ok(now) => (overview, trouble) = (now, None),
                Err(error) => trouble = Some(error.to_string()),
            }
        }
    }
}

/// No key is listened to meanwhile, so this does not take long.
async fn look(node: &Node) -> Result<Value, Error> {
    let looked = timeout(LOOKS_WITHIN, node.get("/admin/overview")).await;
    looked.unwrap_or_else(|_| Err(Error::Away(node.url.clone())))
}

fn is_asked_to_end() -> std::io::Result<bool> {
    if !event::poll(LISTEN)? {
        return Ok(false);
    }
    let Event::Key(key) = event::read()? else { return Ok(false) };
    let interrupted = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    Ok(interrupted || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

/// Lines of the verdict.
const SAID_MAX: usize = 5;

/// Draws the screen. `trouble`: why what is shown is out of date.
fn draw(frame: &mut Frame<'_>, overview: &Value, trouble: Option<&str>) {
    let said = items(&overview["verdict"]).len().min(SAID_MAX) + usize::from(trouble.is_some());
    let services = overview["breakers"].as_object().map_or(0, serde_json::Map::len);
    let rows = |count: usize| Constraint::Length(u16::try_from(count).unwrap_or(u16::MAX).saturating_add(3));
    let areas = Layout::vertical([
        Constraint::Length(u16::try_from(said.clamp(1, SAID_MAX + 1)).unwrap_or(1) + 2),
        Constraint::Length(6),
        rows(services),
        rows(2),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .split(frame.area());
    draw_verdict(frame, areas[0], overview, trouble);
    draw_flows(frame, areas[1], overview);
    draw_services(frame, areas[2], overview);
    draw_queues(frame, areas[3], overview);
    draw_waiting(frame, areas[4], overview);
    let held = text(&overview["now"]["held"]);
    let foot = format!("{} · {} held here · q ends", text(&overview["node"]), held);
    frame.render_widget(Paragraph::new(foot).style(Style::new().add_modifier(Modifier::DIM)), areas[5]);
}

fn color(level: &Value) -> Color {
    match level.as_str() {
        Some("ok") => Color::Green,
        Some("warn") => Color::Yellow,
        _ => Color::Red,
    }
}

fn draw_verdict(frame: &mut Frame<'_>, area: Rect, overview: &Value, trouble: Option<&str>) {
    let style = Style::new().fg(color(&overview["level"]));
    let mut lines: Vec<Line<'_>> =
        items(&overview["verdict"]).iter().take(SAID_MAX).map(|said| Line::styled(text(said), style)).collect();
    if let Some(trouble) = trouble {
        lines.insert(0, Line::styled(format!("out of date: {trouble}"), Style::new().fg(Color::Red)));
    }
    let block = Block::bordered().title(" Tidegate ");
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }).block(block), area);
}

fn draw_flows(frame: &mut Frame<'_>, area: Rect, overview: &Value) {
    let areas = Layout::horizontal([Constraint::Ratio(1, 4); 4]).split(area);
    let beats = items(&overview["history"]);
    for ((field, title), area) in FLOWS.into_iter().zip(areas.iter()) {
        let counts: Vec<u64> = beats.iter().map(|beat| beat[field].as_u64().unwrap_or_default()).collect();
        let each_second: Vec<u64> = counts.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
        let lately: u64 = each_second.iter().rev().take(60).sum();
        let width = usize::from(area.width.saturating_sub(2));
        let shown = &each_second[each_second.len().saturating_sub(width)..];
        let block = Block::bordered().title(format!(" {title}: {lately}/min "));
        frame.render_widget(Sparkline::default().data(shown).block(block), *area);
    }
}

fn table(frame: &mut Frame<'_>, area: Rect, title: &str, heads: &[&str], widths: &[Constraint], rows: Vec<Row<'_>>) {
    let head = Row::new(heads.iter().map(|head| Cell::from((*head).to_owned())));
    let head = head.style(Style::new().add_modifier(Modifier::BOLD));
    let table = Table::new(rows, widths.to_vec()).header(head).block(Block::bordered().title(title.to_owned()));
    frame.render_widget(table, area);
}

fn draw_services(frame: &mut Frame<'_>, area: Rect, overview: &Value) {
    let rows = overview["breakers"].as_object().into_iter().flatten().map(|(name, breaker)| {
        let limiter = &overview["limiters"][name];
        let state = text(&breaker["state"]);
        let color = if state == "closed" { Color::Green } else { Color::Red };
        let windows = items(&limiter["used"]).iter();
        let used = windows.map(|it| format!("{}/{} in {}", it["used"], it["limit"], span(&it["per_ms"])));
        let slots = format!("{}/{}", limiter["slots"]["in_use"], limiter["slots"]["effective"]);
        Row::new([
            Cell::from(name.clone()),
            Cell::from(Span::styled(state, Style::new().fg(color))),
            Cell::from(text(&breaker["mode"])),
            Cell::from(slots),
            Cell::from(text(&limiter["waiting"])),
            Cell::from(used.collect::<Vec<_>>().join(", ")),
        ])
    });
    let widths =
        [20, 10, 8, 10, 8].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]).collect::<Vec<_>>();
    table(
        frame,
        area,
        " Services ",
        &["SERVICE", "BREAKER", "MODE", "SLOTS", "WAITING", "USED"],
        &widths,
        rows.collect(),
    );
}

fn draw_queues(frame: &mut Frame<'_>, area: Rect, overview: &Value) {
    let counts = ["ready", "in_hand", "delayed", "dead", "parked", "spool"];
    let rows = overview["queues"].as_object().into_iter().flatten().map(|(lane, it)| {
        let cells = counts.iter().map(|count| text(&it[*count]));
        Row::new([lane.clone()].into_iter().chain(cells).chain([span(&it["oldest_age_ms"])]).map(Cell::from))
    });
    let heads = ["LANE", "READY", "IN HAND", "DELAYED", "DEAD", "PARKED", "SPOOL", "OLDEST"];
    table(frame, area, " Queues ", &heads, &[Constraint::Length(10); 8], rows.collect());
}

fn draw_waiting(frame: &mut Frame<'_>, area: Rect, overview: &Value) {
    let rows = items(&overview["waiting"])
        .iter()
        .map(|it| Row::new([text(&it["id"]), span(&it["waiting_ms"]), text(&it["explanation"])].map(Cell::from)));
    let widths = [Constraint::Length(26), Constraint::Length(8), Constraint::Fill(1)];
    table(frame, area, " Waiting longest ", &["CONVERSATION", "FOR", "WHAT IT WAITS FOR"], &widths, rows.collect());
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::json;

    use super::*;

    fn drawn(overview: &Value, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, overview, Some("the node is away"))).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_tells_what_matters_and_fits_any_size() {
        let overview = json!({
            "level": "bad", "verdict": ["breaker of primary: open"], "node": "ada", "now": { "held": 7 },
            "history": [{ "accepted": 1 }, { "accepted": 4 }],
            "breakers": { "primary": { "state": "open", "mode": "auto" } },
            "limiters": { "primary": { "used": [{ "used": 3, "limit": 5, "per_ms": 1_000 }], "waiting": 2,
                                       "slots": { "in_use": 1, "effective": 4 } } },
            "queues": { "chat": { "ready": 12, "oldest_age_ms": 2_000 } },
            "waiting": [{ "id": "c\u{1b}[2J", "waiting_ms": 61_000, "explanation": "the circuit breaker" }],
        });
        let screen = drawn(&overview, 120, 40);
        for word in [
            "out of date: the node is away",
            "breaker of primary: open",
            "Taken in: 3/min",
            "3/5 in",
            "chat",
            "12",
            "61 s",
            "the circuit breaker",
            "ada",
            "1/4",
        ] {
            assert!(screen.contains(word), "`{word}` is missing:\n{screen}");
        }
        assert!(!screen.contains('\u{1b}'), "no id moves the cursor");
        for (width, height) in [(1, 1), (20, 5), (40, 12)] {
            drawn(&overview, width, height);
        }
        drawn(&Value::Null, 80, 24);
    }
}
