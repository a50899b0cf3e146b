//! The HTTP API, with the real program: what people do with it (`story`), who may do what (`access`), and what hostile clients try
//! (`hostile`), what was (`past`), and the dashboard (`pages`, `viewers`, and in a
//! real browser `browser`). The examples of the page are run too (`clients`).

mod access;
mod browser;
mod clients;
mod flows;
mod fuzzed;
mod hostile;
mod metrics;
mod operations;
mod pages;
mod past;
mod story;
mod viewers;
