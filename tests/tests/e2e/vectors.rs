/// `ANCHORHOLD_WRITE_VECTORS=1` writes them anew.
#[test]
fn the_committed_vectors_are_those_that_the_mock_makes() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/tests/vectors/documents.json");
    let made = serde_json::to_string_pretty(&qemu_dev::vectors::all()).unwrap() + "\n";
    if std::env::var_os("ANCHORHOLD_WRITE_VECTORS").is_some() {
        std::fs::write(file, &made).unwrap();
    }
    assert!(std::fs::read_to_string(file).unwrap() == made, "write them anew: just vectors");
}
