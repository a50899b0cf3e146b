//! The laws of the broker: what every driver keeps, whatever it is made of. DESIGN: "laws first".
//!
//! A law is a plain async function named as a sentence, taking handles on one fresh, empty broker. `laws!` makes each of them
//! a test of one driver; a new driver adds a [`Place`] to support.rs and one line here.

mod ends;
mod order;

use taskhost::broker::BrokerSettings;

use crate::support::{Place, SqlitePlace};

macro_rules! laws {
    ($driver:ident, $place:ty) => {
        mod $driver {
            use super::*;
            tests! { $place;
                ends: [
                    an_enqueued_task_is_claimed_finished_and_has_its_result,
                ]
                order: [
                    a_claimed_task_is_claimed_once,
                    order_is_priority_then_first_in_first_out,
                ]
            }
        }
    };
}

/// One test a law. `[…]` take one handle; `two […]` two handles, as two processes would have them; `(settings) […]` one handle so set.
macro_rules! tests {
    ($place:ty; $($room:ident: $([$($law:ident,)*])? $(two [$($two:ident,)*])? $(with $settings:ident [$($set:ident,)*])*)*) => {
        $(
            $($(
                #[tokio::test]
                async fn $law() {
                    let place = <$place as Place>::make().await;
                    super::$room::$law(&*place.open(BrokerSettings::default()).await).await;
                }
            )*)?
            $($(
                #[tokio::test]
                async fn $two() {
                    let place = <$place as Place>::make().await;
                    let (one, other) = (place.open(BrokerSettings::default()).await, place.open(BrokerSettings::default()).await);
                    super::$room::$two(&*one, &*other).await;
                }
            )*)?
            $($(
                #[tokio::test]
                async fn $set() {
                    let place = <$place as Place>::make().await;
                    super::$room::$set(&*place.open(super::$room::$settings()).await).await;
                }
            )*)*
        )*
    };
}

laws!(sqlite, SqlitePlace);
