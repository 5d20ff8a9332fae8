//! A plain model of the state: what must be recalled and remembered after any steps.

use std::collections::{BTreeMap, BTreeSet};

use super::{DAY_MS, Factory, RETENTION, answer, conversation, later, message, recall, record, user};
use crate::{
    domain::{
        ids::ConversationId,
        prompt::{History, Role},
        reply::{self, Purpose, Reply},
        time::Timestamp,
        timeline::Outcome,
    },
    state::{Away, Claim, Recall, Record, Remembered, Shared},
};

pub(super) const CONVERSATIONS: usize = 3;

/// Messages of each conversation.
pub(super) const MESSAGES: usize = 4;

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// An answer to some messages of a conversation, in one of two wordings.
    Intend {
        of: usize,
        first: usize,
        count: usize,
        words: usize,
    },
    /// What is said beside an answer.
    Say {
        of: usize,
        first: usize,
        words: usize,
    },
    /// Takes back an intent that stands, if there is one.
    Revoke {
        which: usize,
    },
    /// Ends what an intent covers, with its words remembered.
    Post {
        which: usize,
    },
    /// Ends one message without a reply.
    End {
        of: usize,
        first: usize,
    },
    NoteUser {
        of: usize,
        user: usize,
    },
    NoteAway {
        of: usize,
        away: bool,
    },
    /// Into one that comes before it, so that there are no circles.
    Merge {
        from: usize,
        into: usize,
    },
    Forget {
        of: usize,
    },
    /// Time passes: hours, or more than a week.
    Tidy {
        days: i64,
    },
    Reopen,
}

#[derive(Debug, Clone, Default)]
struct Life {
    outcome: Option<Outcome>,
    /// The reply that covers it.
    covered: Option<String>,
    /// What is told of its end.
    record: Option<Record>,
    at: i64,
}

#[derive(Debug, Clone)]
struct Said {
    reply: Option<Reply>,
    done: bool,
    at: i64,
}

/// The model and the state it is compared with.
pub(super) struct World<'a> {
    factory: &'a dyn Factory,
    state: Shared,
    script: usize,
    now: i64,
    lives: BTreeMap<String, Life>,
    replies: BTreeMap<String, Said>,
    conversations: BTreeMap<usize, (Remembered, i64)>,
}

impl<'a> World<'a> {
    pub async fn new(factory: &'a dyn Factory, script: usize) -> Self {
        Self {
            factory,
            state: factory.fresh().await,
            script,
            now: 0,
            lives: BTreeMap::new(),
            replies: BTreeMap::new(),
            conversations: BTreeMap::new(),
        }
    }

    fn now(&self) -> Timestamp {
        later(self.now)
    }

    fn id(&self, of: usize) -> ConversationId {
        conversation(&format!("c{}-{of}", self.script))
    }

    fn message(&self, of: usize, n: usize) -> String {
        format!("m{}-{of}-{}", self.script, n % MESSAGES)
    }

    /// The intents that stand, which alone may be taken back or posted.
    fn standing(&self, which: usize) -> Option<Reply> {
        let stands = |said: &&Said| !said.done && said.reply.is_some();
        let standing: Vec<&Reply> =
            self.replies.values().filter(stands).filter_map(|said| said.reply.as_ref()).collect();
        let reply = standing.get(which.checked_rem(standing.len())?)?;
        Some((*reply).clone())
    }

    pub async fn run(&mut self, step: Step) {
        self.now += 1;
        match step {
            Step::Intend { of, first, count, words } => {
                let covers: Vec<String> = (first..first + count).map(|n| self.message(of, n)).collect();
                let covers: Vec<&str> = covers.iter().map(String::as_str).collect();
                let reply = answer(self.id(of).as_str(), &covers, ["hello|world", "good day"][words], self.now());
                self.intend(reply).await;
            }
            Step::Say { of, first, words } => {
                let text = ["one moment", "sorry"][words];
                let said = answer(self.id(of).as_str(), &[&self.message(of, first)], text, self.now());
                self.say(Reply { purpose: Purpose::Failure, ..said }).await;
            }
            Step::Revoke { which } => {
                let Some(reply) = self.standing(which) else { return };
                self.state.revoke(&reply).await.unwrap();
                self.lives.retain(|_, life| life.outcome.is_some() || life.covered != Some(reply.key()));
                self.replies.remove(&reply.key());
            }
            Step::Post { which } => {
                let Some(reply) = self.standing(which) else { return };
                self.post(reply).await;
            }
            Step::End { of, first } => {
                let ended = record(&self.message(of, first), self.id(of).as_str(), Outcome::Ignored, self.now(), None);
                self.state.conclude(vec![ended.clone()], None, None).await.unwrap();
                self.ended(ended);
            }
            Step::Reopen => self.state = self.factory.open(RETENTION, self.now()).await,
            Step::Tidy { days } => self.tidy(days).await,
            step => self.keep(step).await,
        }
    }

    async fn intend(&mut self, reply: Reply) {
        let key = reply.key();
        let covered_otherwise = |id: &&crate::domain::ids::MessageId| {
            let life = self.lives.get(id.as_str());
            life.is_some_and(|life| life.outcome.is_some() || life.covered.as_ref() != Some(&key))
        };
        let worded_otherwise = self.replies.get(&key).is_some_and(|said| {
            said.reply.as_ref().is_none_or(|it| (&it.parts, &it.covers) != (&reply.parts, &reply.covers))
        });
        let taken = reply.covers.iter().find(covered_otherwise).or(worded_otherwise.then(|| &reply.covers[0])).cloned();
        let claim = self.state.intend(&reply, None).await.unwrap();
        assert_eq!(claim, taken.map_or(Claim::Ours, Claim::Taken), "{reply:?}");
        if claim == Claim::Ours {
            for id in &reply.covers {
                let life = self.lives.entry(id.to_string()).or_insert(Life { at: self.now, ..Life::default() });
                life.covered = Some(key.clone());
            }
            self.replies.insert(key, Said { reply: Some(reply), done: false, at: self.now });
        }
    }

    async fn say(&mut self, reply: Reply) {
        let claim = self.state.intend(&reply, None).await.unwrap();
        let known = self.replies.contains_key(&reply.key());
        assert_eq!(claim == Claim::Ours, !known, "{reply:?}");
        self.replies.entry(reply.key()).or_insert(Said { reply: Some(reply), done: true, at: self.now });
    }

    async fn post(&mut self, reply: Reply) {
        let of = self.id_number(&reply.conversation);
        let mut said = History::default();
        said.add(Role::Assistant, &reply.text(), 20);
        let ends = reply
            .covers
            .iter()
            .map(|id| record(id.as_str(), reply.conversation.as_str(), Outcome::Replied, self.now(), Some(&reply)));
        let ends: Vec<Record> = ends.collect();
        self.state.conclude(ends.clone(), Some(said.clone()), None).await.unwrap();
        ends.into_iter().for_each(|ended| self.ended(ended));
        if let Some(posted) = self.replies.get_mut(&reply.key()) {
            posted.done = true;
        }
        let (remembered, touched) = self.conversations.entry(of).or_default();
        (remembered.history, *touched) = (Some(said), self.now);
    }

    fn id_number(&self, id: &ConversationId) -> usize {
        (0..CONVERSATIONS).find(|of| self.id(*of) == *id).unwrap()
    }

    fn ended(&mut self, record: Record) {
        let life = self.lives.entry(record.message.to_string()).or_default();
        life.outcome = Some(record.outcome);
        life.covered = record.reply.clone().or(life.covered.take());
        (life.record, life.at) = (Some(record), self.now);
    }

    async fn keep(&mut self, step: Step) {
        match step {
            Step::NoteUser { of, user: number } => {
                let noted = user(&format!("u{}-{number}", self.script));
                self.state.note_user(&self.id(of), &noted, self.now()).await.unwrap();
                let (remembered, touched) = self.conversations.entry(of).or_default();
                (remembered.user, *touched) = (Some(noted), self.now);
            }
            Step::NoteAway { of, away } => {
                let head = message(&self.message(of, 0));
                let away = away.then(|| Away { head, until: self.now() });
                self.state.note_away(&self.id(of), away.clone()).await.unwrap();
                self.conversations.entry(of).or_default().0.away = away;
            }
            Step::Merge { from, into } if into < from => {
                self.state.merge(&self.id(from), &self.id(into)).await.unwrap();
                if let Some((ceased, touched)) = self.conversations.get(&from).cloned() {
                    let (stays, stays_touched) = self.conversations.entry(into).or_default();
                    *stays_touched = (*stays_touched).max(touched);
                    stays.history = stays.history.take().or(ceased.history);
                    stays.user = stays.user.take().or(ceased.user);
                }
                let (ceasing, alias) = (self.id(from), Some(self.id(into)));
                // Those merged into it before go along.
                let before = self.conversations.values_mut().filter(|(it, _)| it.alias.as_ref() == Some(&ceasing));
                before.for_each(|(it, _)| it.alias.clone_from(&alias));
                let (ceased, _) = self.conversations.entry(from).or_default();
                *ceased = Remembered { alias, user: ceased.user.take(), ..Remembered::default() };
            }
            Step::Forget { of } => self.forget(of).await,
            _ => {}
        }
    }

    async fn forget(&mut self, of: usize) {
        self.state.forget_conversation(&self.id(of)).await.unwrap();
        self.conversations.remove(&of);
        for n in 0..MESSAGES {
            let id = self.message(of, n);
            let Some(life) = self.lives.get_mut(&id) else { continue };
            let outcome = *life.outcome.get_or_insert(Outcome::Discarded);
            let told = life.record.take();
            let mut left = record(&id, "?", outcome, later(life.at), None);
            left.conversation = conversation(&format!("c{}-{of}", self.script));
            left.id = told.map_or_else(|| crate::domain::ids::EventId::new(&id).unwrap(), |told| told.id);
            left.cause = None;
            life.record = Some(left);
            for key in [id.clone(), format!("{id}#failure0")] {
                if let Some(said) = self.replies.get_mut(&key) {
                    said.reply = None;
                }
            }
        }
    }

    async fn tidy(&mut self, days: i64) {
        self.now += days * DAY_MS + DAY_MS / 2;
        self.state.tidy(self.now()).await.unwrap();
        let (texts, all) = (self.now - DAY_MS, self.now - 7 * DAY_MS);
        for said in self.replies.values_mut().filter(|said| said.done && said.at < texts) {
            said.reply = None;
        }
        let over = |life: &Life| life.outcome.is_some() && life.at < all;
        let keys = |lives: &dyn Fn(&Life) -> bool| -> BTreeSet<String> {
            self.lives.values().filter(|life| lives(life)).filter_map(|life| life.covered.clone()).collect()
        };
        // What has not ended keeps its reply, although others that it covers have.
        let (ended, open) = (keys(&over), keys(&|life| life.outcome.is_none()));
        self.replies.retain(|key, _| !ended.contains(key) || open.contains(key));
        self.lives.retain(|_, life| !over(life));
        self.conversations
            .retain(|_, (remembered, touched)| remembered.away.is_some() || *touched >= all || *touched == 0);
    }

    /// Compares everything that can be asked.
    pub async fn compare(&self) {
        for of in 0..CONVERSATIONS {
            let remembered = self.state.remembered(&self.id(of)).await.unwrap();
            let expected = self.conversations.get(&of).map(|(remembered, _)| remembered.clone());
            assert_eq!(remembered, expected.unwrap_or_default(), "conversation {of}");
            for n in 0..MESSAGES {
                self.compare_message(of, &self.message(of, n)).await;
            }
        }
        for number in 0..2 {
            let theirs = user(&format!("u{}-{number}", self.script));
            let of = |(of, (kept, _)): (&usize, &(Remembered, i64))| {
                (kept.user.as_ref() == Some(&theirs)).then(|| self.id(*of))
            };
            let mut found = self.state.conversations_of(&theirs).await.unwrap();
            found.sort_unstable();
            assert_eq!(found, self.conversations.iter().filter_map(of).collect::<Vec<_>>());
        }
    }

    /// What the customer was told instead of an answer.
    fn told(&self, id: &str) -> Option<Reply> {
        let key = reply::key(&message(id), Purpose::Failure, 0);
        self.replies.get(&key).and_then(|said| said.reply.clone())
    }

    async fn compare_message(&self, of: usize, id: &str) {
        let life = self.lives.get(id).cloned().unwrap_or_default();
        let reply = life.covered.as_ref().and_then(|key| self.replies.get(key)).and_then(|said| said.reply.clone());
        let expected = match (life.outcome, life.covered) {
            (Some(outcome), _) => Recall::Ended(outcome),
            (None, Some(_)) => Recall::Intended(reply.clone().unwrap()),
            (None, None) => self.told(id).map_or(Recall::New, Recall::Told),
        };
        let conversation = self.id(of);
        assert_eq!(recall(&self.state, conversation.as_str(), id, 0).await, expected, "{id}");
        let told =
            life.record.map(|record| Record { text: record.reply.as_ref().and(reply).map(|it| it.text()), ..record });
        assert_eq!(self.state.record(id).await.unwrap(), told, "{id}");
    }
}
