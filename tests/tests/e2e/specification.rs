use std::path::Path;

#[test]
fn every_test_that_the_specification_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    collect(&root, &mut sources);
    let text = std::fs::read_to_string(root.join("docs/SPECIFICATION.md")).unwrap();
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit());
    let mut named = 0;
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        if tests.starts_with("not a Rust test") {
            continue;
        }
        for test in tests.split(", ").map(|test| test.trim_matches('`')) {
            assert!(sources.contains(&format!("fn {test}(")), "{test}");
            named += 1;
        }
    }
    assert!(named > 140, "{named}");
}

fn collect(folder: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let skipped = name == "target" || name.to_string_lossy().starts_with('.') || name == "docs";
        if path.is_dir() && !skipped {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
