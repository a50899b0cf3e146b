//! What stands of a flow: the state of the whole, and a record a node, each one line of text in the broker.

use std::{fmt, str::FromStr};

use serde::Serialize;

use crate::task::Millis;

/// The state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Word {
    /// Not begun; may have run in an earlier epoch.
    #[default]
    Idle,
    /// Its task or flow, or an item of it, is on its way.
    Running,
    /// For a signal or a time.
    Waiting,
    Succeeded,
    Dead,
    Cancelled,
    /// Will not run: a condition does not hold, or what it needs did not come.
    Skipped,
}

impl Word {
    pub const ALL: [Self; 7] = [Self::Idle, Self::Running, Self::Waiting, Self::Succeeded, Self::Dead, Self::Cancelled, Self::Skipped];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }

    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Cancelled | Self::Skipped)
    }
}

/// The items of a step that has many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Group {
    pub total: u32,
    /// Items before this one were looked at in this epoch.
    pub cursor: u32,
    pub live: u32,
    pub succeeded: u32,
    pub failed: u32,
}

/// What stands of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub word: Word,
    /// How often it was begun.
    pub epoch: u32,
    /// Its place among the ends of the flow.
    pub place: u32,
    pub group: Option<Group>,
    /// When it waits no longer.
    pub until: Option<Millis>,
    /// A short result, or why there is none.
    pub text: Option<String>,
}

/// `word epoch place total,cursor,live,succeeded,failed until text`; `-` for what there is not.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.word.as_str(), self.epoch, self.place)?;
        match self.group {
            Some(Group { total, cursor, live, succeeded, failed }) => write!(f, " {total},{cursor},{live},{succeeded},{failed}")?,
            None => f.write_str(" -")?,
        }
        match self.until {
            Some(Millis(until)) => write!(f, " {until}")?,
            None => f.write_str(" -")?,
        }
        self.text.as_ref().map_or(Ok(()), |text| write!(f, " {text}"))
    }
}

impl FromStr for Record {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("not the record of a node of a flow: `{}`", crate::text::clean(&text.chars().take(80).collect::<String>()));
        let mut parts = text.splitn(6, ' ');
        let mut part = || parts.next().ok_or_else(wrong);
        let word = part()?;
        let word = Word::ALL.into_iter().find(|known| known.as_str() == word).ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        let (epoch, place) = (number(part()?)?, number(part()?)?);
        let group = match part()? {
            "-" => None,
            counts => {
                let counts: Vec<u32> = counts.split(',').map(number).collect::<Result<_, _>>()?;
                let [total, cursor, live, succeeded, failed] = counts[..] else { return Err(wrong()) };
                Some(Group { total, cursor, live, succeeded, failed })
            }
        };
        let until = match part()? {
            "-" => None,
            until => Some(Millis(until.parse().map_err(|_| wrong())?)),
        };
        Ok(Self { word, epoch, place, group, until, text: parts.next().map(str::to_owned) })
    }
}

/// The state of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowWord {
    #[default]
    Running,
    /// A step has failed: the others are stopped, and what is there for a failure runs.
    Failing,
    /// Cancelled, or over its deadline: nothing starts any more.
    Stopping,
    /// What has succeeded is undone, newest first.
    Undoing,
    Succeeded,
    Failed,
    Cancelled,
}

impl FlowWord {
    pub const ALL: [Self; 7] =
        [Self::Running, Self::Failing, Self::Stopping, Self::Undoing, Self::Succeeded, Self::Failed, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Failing => "failing",
            Self::Stopping => "stopping",
            Self::Undoing => "undoing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// What stands of a flow as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FlowState {
    pub word: FlowWord,
    /// What it ends as, once it is failing, stopping or undoing.
    pub becomes: FlowWord,
    /// How many nodes have ended so far.
    pub ends: u32,
    /// Nodes, items included.
    pub nodes: u32,
    pub deadline: Option<Millis>,
    /// Why it failed, or was stopped.
    pub why: Option<String>,
}

/// `word>becomes ends nodes deadline why`; `-` for no deadline.
impl fmt::Display for FlowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}>{} {} {}", self.word.as_str(), self.becomes.as_str(), self.ends, self.nodes)?;
        match self.deadline {
            Some(Millis(deadline)) => write!(f, " {deadline}")?,
            None => f.write_str(" -")?,
        }
        self.why.as_ref().map_or(Ok(()), |why| write!(f, " {why}"))
    }
}

impl FromStr for FlowState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("not the state of a flow: `{}`", crate::text::clean(&text.chars().take(80).collect::<String>()));
        let mut parts = text.splitn(5, ' ');
        let mut part = || parts.next().ok_or_else(wrong);
        let (word, becomes) = part()?.split_once('>').ok_or_else(wrong)?;
        let known = |word: &str| FlowWord::ALL.into_iter().find(|known| known.as_str() == word).ok_or_else(wrong);
        let (word, becomes) = (known(word)?, known(becomes)?);
        let ends = part()?.parse().map_err(|_| wrong())?;
        let nodes = part()?.parse().map_err(|_| wrong())?;
        let deadline = match part()? {
            "-" => None,
            deadline => Some(Millis(deadline.parse().map_err(|_| wrong())?)),
        };
        Ok(Self { word, becomes, ends, nodes, deadline, why: parts.next().map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let group = Group { total: 10, cursor: 7, live: 2, succeeded: 4, failed: 1 };
        for record in [
            Record::default(),
            Record { word: Word::Running, epoch: 3, group: Some(group), ..Record::default() },
            Record { word: Word::Waiting, epoch: 1, until: Some(Millis(9)), ..Record::default() },
            Record { word: Word::Succeeded, epoch: 1, place: 12, text: Some("{\"a\": 1}".into()), ..Record::default() },
            Record { word: Word::Dead, text: Some(String::new()), ..Record::default() },
        ] {
            assert_eq!(record.to_string().parse(), Ok(record.clone()), "{record}");
        }
        for odd in ["", "idle", "idle 1", "idle 1 2", "idle 1 2 -", "lost 1 2 - -", "idle x 2 - -", "idle 1 2 1,2 -", "idle 1 2 - x"] {
            assert!(odd.parse::<Record>().is_err(), "{odd}");
        }
    }

    #[test]
    fn states_are_read_as_they_were_written() {
        for state in [
            FlowState::default(),
            FlowState {
                word: FlowWord::Failing,
                becomes: FlowWord::Failed,
                ends: 3,
                nodes: 9,
                deadline: Some(Millis(7)),
                why: Some("step `a` died".into()),
            },
        ] {
            assert_eq!(state.to_string().parse(), Ok(state.clone()), "{state}");
        }
        for odd in
            ["", "running", "running 1 2 -", "running>failed 1 2", "gone>failed 1 2 -", "running>failed x 2 -", "running>failed 1 2 x"]
        {
            assert!(odd.parse::<FlowState>().is_err(), "{odd}");
        }
    }
}
