//! Misuse of the macros is a compile error that points at the word and says what to write instead.

#[test]
fn misuse_is_a_compile_error_at_the_word() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/misuse/*.rs");
}
