//! What the compiler says about attributes that are wrong.

/// Each file is compiled once and holds many types: an error of one does not hide the next.
/// `TRYBUILD=overwrite cargo test -p fabric-derive --test errors` writes the files of messages.
#[test]
fn errors_name_what_is_wrong_and_point_at_it() {
    trybuild::TestCases::new().compile_fail("tests/errors/*.rs");
}
