/// `ANCHORHOLD_WRITE_VECTORS=1` writes them anew.
#[test]
fn the_committed_vectors_are_those_that_the_mock_makes() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../attestation/tests/vectors/documents.json"
    );
    let made = serde_json::to_string_pretty(&qemu_dev::vectors::all()).unwrap() + "\n";
    if std::env::var_os("ANCHORHOLD_WRITE_VECTORS").is_some() {
        std::fs::write(file, &made).unwrap();
    }
    assert!(
        std::fs::read_to_string(file).unwrap() == made,
        "write them anew: just vectors"
    );
}

/// Those of evidence, tokens and credentials, and the cases that judge them.
#[test]
fn the_committed_evidence_is_that_which_the_mock_makes() {
    let folder = std::path::Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../attestation/tests/vectors/cases"
    ));
    let made = qemu_dev::vectors::evidence();
    let write = std::env::var_os("ANCHORHOLD_WRITE_VECTORS").is_some();
    for (name, bytes) in &made {
        let file = folder.join(name);
        if write {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, bytes).unwrap();
        }
        assert!(
            std::fs::read(&file).is_ok_and(|committed| committed == *bytes),
            "{name}: write them anew: just vectors"
        );
    }
    let mut committed = Vec::new();
    for sub in ["", "evidence", "tokens", "credentials"] {
        let files = std::fs::read_dir(folder.join(sub))
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().is_file());
        committed.extend(files.map(|entry| entry.path()));
    }
    assert_eq!(
        committed.len(),
        made.len(),
        "each file is one of the cases'"
    );
}
