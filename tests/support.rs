//! Shared by the tests of the whole program: the program itself, small plugins, and the vocabulary of `taskhost_testing`.

pub(crate) mod http;
pub(crate) mod program;
pub(crate) mod receiver;
pub(crate) mod tiny;

pub(crate) use taskhost_testing::*;
