//! The query of a request, read by name. What can't be read is a problem that names the parameter.

use std::{fmt::Display, str::FromStr, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{Uri, request::Parts},
};
use taskhost_core::{
    task::{Millis, QueueName},
    units,
};

use super::problem::{self, Problem};

/// The longest time that a request may wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The parameters of a query. Each is given once; a list has commas.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(uri: &Uri) -> Self {
        let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    pub(super) fn of_pairs(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// Refuses parameters that are not in `known`, and those that are given twice.
    pub(super) fn check(&self, known: &[&str]) -> Result<(), Problem> {
        for (index, (name, value)) in self.0.iter().enumerate() {
            if !known.contains(&&**name) {
                let takes = if known.is_empty() { "takes none".to_owned() } else { format!("takes {}", known.join(", ")) };
                return Err(refused(name, format!("this resource has no query parameter `{name}`: it {takes}")));
            }
            if self.0[..index].iter().any(|(before, _)| before == name) {
                return Err(refused(name, format!("the query parameter `{name}` is given twice")));
            }
            // Many clients ask for the first page with an empty cursor.
            if value.is_empty() && name != "cursor" {
                return Err(refused(name, format!("the query parameter `{name}` has no value: leave it out, or give it one")));
            }
        }
        Ok(())
    }

    /// `None` if it is not given, or empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value).filter(|value| !value.is_empty())
    }

    /// Every value of a name that is given more than once, as forms do.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }

    pub(super) fn value<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.text(name).map(|text| text.parse().map_err(|why| refused(name, format!("`{name}`: {why}")))).transpose()
    }

    pub(super) fn list<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Vec<T>, Problem> {
        let parts = self.text(name).unwrap_or_default().split(',').filter(|part| !part.is_empty());
        parts.map(|part| part.parse().map_err(|why| refused(name, format!("`{name}`: {why}")))).collect()
    }

    pub(super) fn queue(&self) -> Result<Option<QueueName>, Problem> {
        self.value("queue")
    }

    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, Problem> {
        self.text(name).map(|text| units::duration(text).map_err(|why| refused(name, format!("`{name}`: {why}")))).transpose()
    }

    /// How long to wait for an end. Whoever wants to wait for longer asks again.
    pub(super) fn wait(&self) -> Result<Option<Duration>, Problem> {
        Ok(self.duration("wait")?.map(|wait| wait.min(LONGEST_WAIT)))
    }

    /// A point in time, or how long ago it is.
    pub(super) fn instant(&self, name: &str, now: Millis) -> Result<Option<Millis>, Problem> {
        let past = self.text(name).map(|text| units::past(text).map_err(|why| refused(name, format!("`{name}`: {why}"))));
        Ok(past.transpose()?.map(|past| past.at(now)))
    }

    /// From 1 to `most`.
    pub(super) fn limit(&self, default: usize, most: usize) -> Result<usize, Problem> {
        match self.value::<usize>("limit")? {
            None => Ok(default),
            Some(limit) if (1..=most).contains(&limit) => Ok(limit),
            Some(_) => Err(refused("limit", format!("`limit` is a number from 1 to {most}"))),
        }
    }
}

fn refused(name: &str, detail: String) -> Problem {
    Problem::new(&problem::BAD_REQUEST, detail).with("parameter", name)
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.uri))
    }
}
