//! The bodies against a fake centre and a fake ECF.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use serde_json::{Value, json};
use taskhost_sdk::{
    http::{Error, Request, Response},
    testing::{self, Attempt},
};

use super::*;
use crate::record::Staged;

/// Both servers. Each fault comes once, in order, at the request of its number, which counts from 1.
#[derive(Default)]
struct Servers {
    /// The suffix of every record's name.
    suffix: &'static str,
    requests: usize,
    faults: BTreeMap<usize, Result<Response, Error>>,
    ecf: BTreeMap<String, Value>,
    gets: Vec<String>,
}

impl Servers {
    /// Three pages of 100 records.
    fn answer(&mut self, request: &Request) -> Result<Response, Error> {
        self.requests += 1;
        if let Some(fault) = self.faults.remove(&self.requests) {
            return fault;
        }
        if let Some(path) = request.url.strip_prefix("http://ecf/") {
            assert_eq!(request.method, "PUT");
            self.ecf.insert(path.into(), serde_json::from_slice(&request.body).unwrap());
            return Ok(Response::new(204));
        }
        self.gets.push(request.url.clone());
        let (_, page) = request.url.strip_prefix("http://center/").unwrap().split_once("?page=").unwrap();
        let page: u64 = page.parse().unwrap();
        let items: Vec<_> = (0..100).map(|i| json!({"id": page * 1000 + i, "name": format!("record {i}{}", self.suffix)})).collect();
        let next = if page < 3 { json!(page + 1) } else { Value::Null };
        Ok(Response::new(200).with_body(json!({"items": items, "next": next}).to_string()))
    }
}

fn servers() -> (Rc<RefCell<Servers>>, Attempt) {
    let servers = Rc::new(RefCell::new(Servers::default()));
    let shared = servers.clone();
    let attempt = testing::attempt()
        .env("CENTER_URL", "http://center/")
        .env("ECF_URL", "http://ecf")
        .http(move |request| shared.borrow_mut().answer(request));
    (servers, attempt)
}

#[test]
fn stages_every_page_then_pushes_what_changed() {
    let (servers, attempt) = servers();
    assert_eq!(attempt.run(transfer_department), Ok(300));
    assert_eq!(attempt.next().id("t-2").run(transfer_department), Ok(0), "unchanged ones are skipped");
    assert_eq!(attempt.next().run(ecf_department), Ok(300));
    assert_eq!(attempt.next().run(ecf_department), Ok(0), "pushed ones are not pushed again");
    assert_eq!(servers.borrow().ecf["department/3099"], json!({"id": 3099, "name": "record 99"}));

    servers.borrow_mut().suffix = " (new)";
    assert_eq!(attempt.next().id("t-3").run(transfer_department), Ok(300));
    assert_eq!(attempt.next().run(ecf_department), Ok(300));
    assert_eq!(servers.borrow().ecf["department/1000"]["name"], "record 0 (new)");
    assert_eq!(attempt.kv_keys().len(), 300, "the cursor is gone");
}

#[test]
fn each_kind_has_its_own_path_and_records() {
    let (servers, attempt) = servers();
    assert_eq!(attempt.run(transfer_bu), Ok(300));
    assert_eq!(attempt.run(transfer_staff), Ok(300));
    assert_eq!(servers.borrow().gets[0], "http://center/business_unit?page=1");
    assert_eq!(servers.borrow().gets[3], "http://center/staff?page=1");
    assert_eq!(attempt.run(ecf_department), Ok(0));
    assert_eq!(attempt.run(ecf_bu), Ok(300));
    assert_eq!(attempt.run(ecf_staff), Ok(300));
    assert!(servers.borrow().ecf.contains_key("business_unit/1000"));
}

#[test]
fn what_may_pass_is_retried_from_where_it_stopped() {
    let faults = [
        Ok(Response::new(500)),
        Err(Error::Timeout("slow".into())),
        Err(Error::CutOff("half".into())),
        Ok(Response::new(200).with_body(r#"{"items": [{"id": 1}"#)),
    ];
    for fault in faults {
        let (servers, first) = servers();
        servers.borrow_mut().faults.insert(3, fault.clone());
        let error = first.run(transfer_department).unwrap_err();
        assert!(error.is_retryable(), "{fault:?}");
        assert_eq!(first.next().run(transfer_department), Ok(300), "the count is that of all attempts");
        let gets: Vec<_> = servers.borrow().gets.iter().map(|url| url.chars().last().unwrap()).collect();
        assert_eq!(gets, ['1', '2', '3'], "no page twice");
    }
}

#[test]
fn another_task_begins_anew() {
    let (servers, first) = servers();
    servers.borrow_mut().faults.insert(2, Ok(Response::new(503)));
    assert!(first.run(transfer_department).is_err());
    assert_eq!(first.next().id("another").run(transfer_department), Ok(200), "page 1 is staged already");
    assert_eq!(servers.borrow().gets.len(), 4);
}

#[test]
fn a_push_that_stopped_goes_on_behind_what_was_pushed() {
    let (servers, first) = servers();
    assert_eq!(first.run(transfer_staff), Ok(300));
    servers.borrow_mut().faults.insert(3 + 101, Ok(Response::new(502)));
    assert!(first.run(ecf_staff).unwrap_err().is_retryable());
    assert_eq!(servers.borrow().ecf.len(), 100);
    assert_eq!(first.next().run(ecf_staff), Ok(200));
    assert_eq!(servers.borrow().ecf.len(), 300);
}

#[test]
fn what_will_not_pass_is_permanent() {
    for fault in [Response::new(404), Response::new(401), Response::new(200).with_body(r#"{"items": [{"name": "no id"}]}"#)] {
        let (servers, attempt) = servers();
        servers.borrow_mut().faults.insert(1, Ok(fault.clone()));
        assert!(!attempt.run(transfer_department).unwrap_err().is_retryable(), "{fault:?}");
    }
    let error = testing::attempt().run(transfer_department).unwrap_err();
    assert!(!error.is_retryable() && error.message().contains("CENTER_URL"), "{error}");

    let (servers, attempt) = servers();
    servers.borrow_mut().faults.insert(1, Ok(Response::new(200).with_body(r#"{"items": [], "next": 1}"#)));
    assert!(!attempt.run(transfer_department).unwrap_err().is_retryable(), "a centre that runs in circles");
}

#[test]
fn stops_between_pages_and_pushes_when_cancelled() {
    let (servers, attempt) = servers();
    let attempt = attempt.cancelled();
    assert_eq!(attempt.run(transfer_department), Err(TaskError::cancelled()));
    assert_eq!(servers.borrow().requests, 0);
}

#[test]
fn a_broker_out_of_reach_is_retried() {
    let attempt = testing::attempt().env("CENTER_URL", "http://center").kv_fails(kv::Error::Unavailable("gone".into()));
    assert!(attempt.run(transfer_department).unwrap_err().is_retryable());
}

#[test]
fn ids_are_escaped_in_the_path_and_the_order_of_keys_does_not_count() {
    assert_eq!(ecf::in_path("a/b ä?"), "a%2Fb%20%C3%A4%3F");
    let hash = |text| record::hash_of(&serde_json::from_str(text).unwrap()).unwrap();
    assert_eq!(hash(r#"{"id":1,"a":2}"#), hash(r#"{"a":2,"id":1}"#));
    assert_ne!(hash(r#"{"id":1,"a":2}"#), hash(r#"{"id":1,"a":3}"#));
    let staged = Staged { hash: "1".into(), pushed: None, record: serde_json::Map::new() };
    assert!(staged.is_changed());
}
