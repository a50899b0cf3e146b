use taskhost_sdk::prelude::*;

#[derive(serde::Deserialize, Schema)]
struct Order {
    #[serde(alias = "nr")]
    _id: i64,
}

#[derive(serde::Deserialize, Schema)]
#[serde(tag = "kind")]
enum Kind {
    Full,
}

#[derive(serde::Deserialize, Schema)]
enum Shape {
    Circle(f64),
}

fn main() {}
