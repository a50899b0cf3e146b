//! Small components with one body that returns one number.

use crate::engine::hostile::Guest;

/// The behaviour of a tiny plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    /// Its body answers with its number.
    Answer,
    /// Its body traps.
    Trap,
    /// Its `describe` traps.
    CrashInDescribe,
    /// It exports an unknown contract.
    SpeakOtherwise,
}

/// A plugin of version `number` that offers `body`. Each number makes other bytes.
pub(crate) fn tiny(body: &str, number: u32, does: Does) -> Vec<u8> {
    let word = |number: usize| u32::try_from(number).expect("small").to_le_bytes().map(|byte| format!("\\{byte:02x}")).concat();
    let version = number.to_string();
    // This data replaces the default: version, name and result.
    let more = format!(
        r#"(data (i32.const 1024) "{}{}") (data (i32.const 1100) "{}{}")
        (data (i32.const 4096) "{body}") (data (i32.const 4400) "{version}")"#,
        word(4400),
        word(version.len()),
        word(4096),
        word(body.len()),
    );
    let answer = format!("(call $ok (i32.const 4400) (i32.const {}))", version.len());
    let guest = Guest { more: &more, run: if does == Does::Trap { "unreachable" } else { &answer }, ..Guest::default() };
    match does {
        Does::Answer | Does::Trap => guest.build(),
        Does::CrashInDescribe => Guest { describe: "unreachable", ..guest }.build(),
        Does::SpeakOtherwise => Guest { contract: "taskhost:plugin/tasks@7.0.0", ..guest }.build(),
    }
}
