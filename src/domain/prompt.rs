//! What the model is asked: the instruction, the last turns of the conversation, the customer's question.

use serde::{Deserialize, Serialize};

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The instruction.
    System,
    /// The customer.
    User,
    /// We, or a human of the support team.
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Who.
    pub role: Role,
    /// What.
    pub text: String,
}

/// The last turns of a conversation, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(Vec<Turn>);

impl History {
    /// Takes turns, oldest first.
    pub fn new(turns: Vec<Turn>) -> Self {
        Self(turns)
    }

    /// Adds a turn and forgets all but the last `keep`.
    pub fn add(&mut self, role: Role, text: &str, keep: usize) {
        self.0.push(Turn { role, text: text.to_owned() });
        let surplus = self.0.len().saturating_sub(keep);
        self.0.drain(..surplus);
    }

    /// The turns, oldest first.
    pub fn turns(&self) -> &[Turn] {
        &self.0
    }

    /// Whether nothing has been said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A question to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The turns, the customer's question last.
    pub turns: Vec<Turn>,
    /// Images that belong to the question, for models that take them.
    pub images: Vec<String>,
}

impl Prompt {
    /// Builds the question: the fragments of a burst are one turn, a line each.
    pub fn new(system: &str, history: &History, fragments: &[&str], images: Vec<String>) -> Self {
        let system = (!system.is_empty()).then(|| Turn { role: Role::System, text: system.to_owned() });
        let question = Turn { role: Role::User, text: fragments.join("\n") };
        Self { turns: system.into_iter().chain(history.turns().iter().cloned()).chain([question]).collect(), images }
    }

    /// A rough count of tokens: four bytes each (the rule of thumb of OpenAI's tokenizer guide), and four a turn.
    pub fn tokens(&self) -> u64 {
        self.turns.iter().map(|turn| turn.text.len() as u64 / 4 + 4).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_instruction_history_and_one_question() {
        let mut history = History::default();
        for n in 0..30 {
            history.add(Role::User, &n.to_string(), 20);
        }
        assert_eq!(history.turns().len(), 20);
        assert_eq!(history.turns()[0].text, "10");
        let prompt = Prompt::new("be kind", &history, &["hi", "my order"], Vec::new());
        assert_eq!(prompt.turns.len(), 22);
        assert_eq!(prompt.turns[0].role, Role::System);
        assert_eq!(prompt.turns[21].text, "hi\nmy order");
    }
}
