//! Every command that a page shows runs here as it is written, and every example.
//!
//! A fenced block of a page is in a language: `sh` runs, in the order of the page, in one folder. A
//! comment in the line above it says what a reader does not need to see:
//!
//! - `<!-- not run: why -->`: it cannot run in a test, and why.
//! - `<!-- in another terminal until "TEXT" -->`: it runs on, and what follows waits until it has
//!   said TEXT.
//! - `<!-- exits N -->`: it ends so, with 0 unless that is said.
//! - `<!-- file NAME -->`, above a block of any language: the reader saves it so. `z6Mk...` in it
//!   becomes a key.
//! - `<!-- first: COMMANDS -->` anywhere: what was done before the reader comes to this page.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::window::TestKey;
use harness::{private_folder, program};
use identity::Signer as _;

/// A fenced block and the comment above it.
#[derive(Debug)]
struct Block {
    line: usize,
    language: String,
    comment: Option<String>,
    text: String,
}

struct Page {
    /// Relative to the top of the tree.
    name: String,
    blocks: Vec<Block>,
    /// What was done before.
    first: Vec<String>,
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every page of the tree.
fn pages() -> Vec<Page> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "*.md"])
        .current_dir(top())
        .output()
        .unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    // What changed is history, and not to be typed.
    let names = names.lines().filter(|name| *name != "CHANGELOG.md");
    names.map(read).collect()
}

fn read(name: &str) -> Page {
    let text = fs::read_to_string(top().join(name)).unwrap();
    let mut page = Page {
        name: name.into(),
        blocks: Vec::new(),
        first: Vec::new(),
    };
    let (mut open, mut before): (Option<Block>, &str) = (None, "");
    for (number, line) in (1..).zip(text.lines()) {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                // What was done before the page is no word about this block.
                let own = comment(before).filter(|said| !said.starts_with("first: "));
                open = Some(Block {
                    line: number,
                    language: language.into(),
                    comment: own.map(str::to_owned),
                    text: String::new(),
                });
            }
            (Some(_), Some("")) => page.blocks.extend(open.take()),
            (Some(block), _) => block.text += &format!("{line}\n"),
            (None, None) => {
                let first = comment(line).and_then(|said| said.strip_prefix("first: "));
                page.first.extend(first.map(str::to_owned));
            }
        }
        before = line;
    }
    assert!(open.is_none(), "{name}: a block without an end");
    page
}

fn comment(line: &str) -> Option<&str> {
    line.strip_prefix("<!-- ")?.strip_suffix(" -->")
}

#[test]
fn every_block_of_a_page_is_run_or_says_why_not() {
    let languages = [
        "sh",
        "sh openssl",
        "toml",
        "text",
        "mermaid",
        "python",
        "python-openssl",
        "rust",
        "json",
        "yaml",
    ];
    // rustdoc runs these.
    let of_rustdoc = ["", "no_run", "compile_fail"];
    for page in pages() {
        for block in &page.blocks {
            let language = block.language.as_str();
            let known = languages.contains(&language)
                || page.name == "docs/library.md" && of_rustdoc.contains(&language);
            assert!(
                known,
                "{}:{}: the language {language:?}",
                page.name, block.line
            );
            let comment = block.comment.as_deref().unwrap_or_default();
            let meant = [
                "not run: ",
                "in another terminal until \"",
                "exits ",
                "file ",
            ]
            .iter()
            .any(|word| comment.starts_with(word));
            assert!(
                comment.is_empty() || meant,
                "{}:{}: {comment}",
                page.name,
                block.line
            );
            assert!(
                language != "text" || !block.text.starts_with("$ "),
                "{}:{}: a command that is called text",
                page.name,
                block.line
            );
        }
    }
}

/// A folder as a reader's clone is: with the programs built, and what pages name in it.
struct Clone {
    folder: tempfile::TempDir,
}

impl Clone {
    fn new() -> Self {
        let clone = Self {
            folder: private_folder(),
        };
        let built = program("anchorhold");
        let built = built.parent().unwrap();
        let path = |name: &str| clone.folder.path().join(name);
        for folder in ["target", "stubs", "run"] {
            fs::create_dir(path(folder)).unwrap();
        }
        fs::set_permissions(path("run"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink(built, path("target/release")).unwrap();
        for name in ["examples", "docs", "deploy"] {
            symlink(top().join(name), path(name)).unwrap();
        }
        // Everything is built already; what is left of `cargo run` is to start it.
        let cargo = r#"#!/bin/bash
[ "$1" = build ] && exit 0
[ "$1" = run ] || { echo "cargo $1: not here" >&2; exit 1; }
shift
while [ $# -gt 0 ]; do
  case $1 in
    --bin) program=$2; shift 2 ;;
    --example) program=examples/$2; shift 2 ;;
    -p) shift 2 ;;
    --release | --locked | -q) shift ;;
    --) shift; break ;;
    *) echo "cargo run $1: not here" >&2; exit 1 ;;
  esac
done
exec target/release/"$program" "$@"
"#;
        harness::write_script(&path("stubs/cargo"), cargo);
        clone
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a script as a reader with these programs would, and ends whatever it left running.
    fn run(&self, script: &str) -> (bool, String) {
        let (path, built) = (self.path(), self.path().join("target/release"));
        let variable = std::env::var("PATH").unwrap();
        fs::write(path.join("script"), script).unwrap();
        let output = Command::new("bash")
            .arg(path.join("script"))
            .current_dir(path)
            .env_clear()
            .env(
                "PATH",
                format!(
                    "{}:{}:{variable}",
                    path.join("stubs").display(),
                    built.display()
                ),
            )
            .env("HOME", path)
            .env("XDG_RUNTIME_DIR", path.join("run"))
            .env("LANG", "C.UTF-8")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }
}

/// Ends with the script whatever it has started, and knows how to wait for words.
const PREAMBLE: &str = r#"set -eo pipefail
others=()
ended() { for other in "${others[@]}"; do kill -- "-$other" 2>/dev/null || true; done; wait; }
trap ended EXIT
system() { setsid anchorhold-dev up "$@" > up.log 2>&1 & others+=($!); says up.log 'Anchorhold is up'; eval "$(anchorhold env)"; }
says() { for _ in $(seq 600); do grep -qF "$2" "$1" 2>/dev/null && return; sleep 0.05; done; cat "$1"; echo "it never said: $2"; exit 1; }
"#;

/// What a page's commands are, one after the other, with `set -x`-like marks of where it is.
fn script(page: &Page, folder: &Path) -> String {
    let mut script = PREAMBLE.to_owned();
    let mut keys = 0;
    for block in &page.blocks {
        let named = block.comment.as_deref().unwrap_or_default();
        if let Some(name) = named.strip_prefix("file ") {
            let mut text = block.text.clone();
            while text.contains("z6Mk...") {
                keys += 1;
                let key = TestKey::new(keys).public_key().to_multikey();
                text = text.replacen("z6Mk...", &key, 1);
            }
            fs::write(folder.join(name), text).unwrap();
        }
    }
    for first in &page.first {
        script += &format!("{first}\n");
    }
    for block in page.blocks.iter().filter(|block| block.language == "sh") {
        let comment = block.comment.as_deref().unwrap_or_default();
        if comment.starts_with("not run: ") {
            continue;
        }
        let (line, text) = (block.line, &block.text);
        let _ = writeln!(script, "echo '== {}:{line}'", page.name);
        if let Some(until) = comment.strip_prefix("in another terminal until \"") {
            let until = until.strip_suffix('"').unwrap();
            let log = folder.join(format!("{line}.log"));
            let log = log.display();
            // The last command is the one that stays.
            let _ = writeln!(
                script,
                "cat > {line}.sh <<'EOF_OF_BLOCK'\n{text}EOF_OF_BLOCK\nsetsid bash -e {line}.sh > {log} 2>&1 & others+=($!)\nsays {log} '{until}'\ncat {log}"
            );
        } else if let Some(code) = comment.strip_prefix("exits ") {
            let _ = writeln!(
                script,
                "set +e\n{text}code=$?\nset -e\n[ $code = {code} ] || {{ echo \"it ended with $code\"; exit 1; }}"
            );
        } else {
            script += text;
        }
    }
    script
}

#[test]
fn every_example_is_on_a_page() {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "examples"])
        .current_dir(top())
        .output()
        .unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    let all: Vec<String> = pages()
        .iter()
        .map(|page| fs::read_to_string(top().join(&page.name)).unwrap())
        .collect();
    for name in names.lines() {
        assert!(
            all.iter().any(|page| page.contains(name)),
            "{name} is on no page"
        );
    }
    assert!(names.lines().count() >= 9, "{names}");
}

#[test]
fn what_the_pages_say_can_be_typed() {
    let mut failures = String::new();
    let mut run = 0;
    for page in pages() {
        let runs = |block: &Block| {
            let comment = block.comment.as_deref().unwrap_or_default();
            block.language == "sh" && !comment.starts_with("not run: ")
        };
        if !page.blocks.iter().any(runs) {
            continue;
        }
        let clone = Clone::new();
        // The one port that a page names may be somebody's here.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port().to_string();
        drop(free);
        let script = script(&page, clone.path()).replace("8899", &port);
        let (good, said) = clone.run(&script);
        if !good {
            let _ = writeln!(failures, "---- {}\n{said}", page.name);
        }
        run += page.blocks.iter().filter(|block| runs(block)).count();
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(run >= 20, "only {run} blocks ran");
}

/// What `up` says is to be pasted into another terminal: it works as it stands.
#[test]
fn what_up_prints_can_be_pasted() {
    let clone = Clone::new();
    let begin = "system --state try\n";
    let commands = r#"sed -n '/^Paste this/,$p' up.log | sed -n 's/^  //p' > pasted.sh
[ "$(grep -c . pasted.sh)" -ge 9 ] || { cat up.log; exit 1; }
bash -e pasted.sh
"#;
    let (good, said) = clone.run(&format!("{PREAMBLE}{begin}{commands}"));
    assert!(
        good && said.contains("ACCEPTED as mock") && said.contains("\ngood: "),
        "{said}"
    );
    assert!(said.contains("sidecar   unix://"), "{said}");
}
