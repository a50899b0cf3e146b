//! Shared by the tests of the whole program: the program itself, small plugins, and the vocabulary of `taskhost_testing`.

pub(crate) mod browser;
pub(crate) mod http;
pub(crate) mod program;
pub(crate) mod receiver;
pub(crate) mod tiny;

pub(crate) use taskhost_testing::*;

/// Plays each story, a function of a host, on every broker.
macro_rules! on_every_broker {
    ($($story:ident)*) => {
        mod on_sqlite {
            $(#[test] fn $story() { super::$story(&$crate::support::program::Taskhost::new()); })*
        }
        mod on_redis {
            $(#[test] fn $story() { super::$story(&$crate::support::program::Taskhost::on_redis()); })*
        }
    };
}
pub(crate) use on_every_broker;
