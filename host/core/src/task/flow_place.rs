//! Where a task stands in a flow.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{QueueName, TaskId};

/// A node of a flow in an epoch. The end of its task is told to the flow, which stands in a queue of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowPlace {
    /// The queue that the flow stands in.
    pub queue: QueueName,
    #[serde(rename = "id")]
    pub flow: TaskId,
    /// The name of the node: a step, an item of it (`resize.3`), or what undoes either (`resize.undo`).
    pub node: String,
    pub epoch: u32,
}

/// `queue flow node epoch`
impl fmt::Display for FlowPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.queue, self.flow, self.node, self.epoch)
    }
}

impl FromStr for FlowPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(' ').collect();
        let [queue, flow, node, epoch] = parts[..] else { return Err("not a queue, a flow, a node and an epoch".to_owned()) };
        let is_node = !node.is_empty() && node.len() <= 128 && node.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !is_node {
            return Err("not the name of a node".to_owned());
        }
        Ok(Self {
            queue: queue.parse().map_err(|error: super::InvalidName| error.to_string())?,
            flow: flow.parse().map_err(|error: super::InvalidName| error.to_string())?,
            node: node.to_owned(),
            epoch: epoch.parse().map_err(|_| "not an epoch".to_owned())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let place =
            FlowPlace { queue: QueueName::default(), flow: TaskId::new("f.1").expect("valid"), node: "resize.3.undo".into(), epoch: 2 };
        assert_eq!(place.to_string(), "default f.1 resize.3.undo 2");
        assert_eq!(place.to_string().parse(), Ok(place));
        for odd in ["", "default f a", "default f a x", "default f a 1 2", "de{ault f a 1", "default f a\n 1", "default  a 1"] {
            assert!(odd.parse::<FlowPlace>().is_err(), "{odd}");
        }
    }
}
