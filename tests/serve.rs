//! The HTTP API, with the real program: what people do with it (`story`), who may do what (`access`), and what hostile clients try
//! (`hostile`), and what was (`past`). The examples of the page are run too (`clients`).

mod access;
mod clients;
mod fuzzed;
mod hostile;
mod metrics;
mod operations;
mod past;
mod story;
