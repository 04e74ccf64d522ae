//! Prints what can be measured of the shape: functions and circles of each crate, then the largest
//! functions (as many as the first argument says). With `errors`: docs/errors.md.
#![expect(clippy::print_stdout, reason = "what it is for")]

use shape::{codes, functions, modules, rooms, root};

fn main() {
    if std::env::args().nth(1).as_deref() == Some("errors") {
        print!("{}", codes::page());
        return;
    }
    println!(
        "{:<28} {:>9} {:>7} {:>7} {:>8} {:>8}  longest",
        "crate", "functions", "median", "p95", "longest", "circles"
    );
    let mut all = Vec::new();
    for room in rooms(&root()) {
        let source = root().join(&room.folder).join("src");
        let found = functions(&source);
        let circles = if source.join("lib.rs").exists() {
            modules(&source).circles().len()
        } else {
            0
        };
        print(&room.folder, &found, circles);
        // The shape of what is shipped; tests have their own.
        if !room.folder.starts_with("tests") {
            all.extend(found);
        }
    }
    print("all but tests", &all, 0);
    let most = std::env::args()
        .nth(1)
        .and_then(|most| most.parse().ok())
        .unwrap_or(0);
    all.sort_by_key(|function| std::cmp::Reverse(function.tokens));
    for function in all.iter().take(most) {
        println!(
            "{:>5} tokens {:>4} lines  {}",
            function.tokens, function.lines, function.name
        );
    }
}

fn print(name: &str, found: &[shape::Function], circles: usize) {
    let mut tokens: Vec<usize> = found.iter().map(|function| function.tokens).collect();
    tokens.sort_unstable();
    let at = |percent: usize| {
        tokens
            .get(tokens.len() * percent / 100)
            .copied()
            .unwrap_or_default()
    };
    let Some(longest) = found.iter().max_by_key(|function| function.lines) else {
        return;
    };
    println!(
        "{name:<28} {:>9} {:>7} {:>7} {:>8} {circles:>8}  {}",
        found.len(),
        at(50),
        at(95),
        longest.lines,
        longest.name
    );
}
