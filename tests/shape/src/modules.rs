//! Which top-level modules of a crate know which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::Visit;
use syn::{Item, UseTree, Visibility};

use crate::{is_for_tests, parse, rust_files};

/// From each top-level module, its children among it, to those that it names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Graph(BTreeMap<String, BTreeSet<String>>);

/// Reads the modules of the crate whose source is in this folder. What the root names again (`pub
/// use`) is looked for in its module. Code for tests does not count.
pub fn modules(source: &Path) -> Graph {
    let root = parse(&source.join("lib.rs"));
    let mut names = Names::default();
    for item in &root.items {
        match item {
            Item::Mod(module) if !is_for_tests(&module.attrs) => {
                names.modules.insert(module.ident.to_string());
            }
            Item::Use(used) if !matches!(used.vis, Visibility::Inherited) => {
                names.again(&used.tree, &mut Vec::new())
            }
            _ => {}
        }
    }
    let mut graph = Graph::default();
    for file in rust_files(source) {
        let below: Vec<String> = file
            .strip_prefix(source)
            .expect("a file of this folder")
            .with_extension("")
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect();
        let is_of_tests = below
            .last()
            .is_some_and(|name| name == "tests" || name.ends_with("_tests"));
        if !names.modules.contains(&below[0]) || is_of_tests {
            continue;
        }
        // `mod.rs` is its folder.
        let depth = below.len() - usize::from(below.last().is_some_and(|name| name == "mod"));
        let mut reader = Reader {
            names: &names,
            depth,
            found: BTreeSet::new(),
        };
        reader.visit_file(&parse(&file));
        let known = graph.0.entry(below[0].clone()).or_default();
        known.extend(reader.found.into_iter().filter(|name| *name != below[0]));
    }
    graph
}

impl Graph {
    /// Modules that know one another, directly or through others; each circle once, in the order of
    /// names.
    pub fn circles(&self) -> Vec<Vec<&str>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> = self
            .0
            .keys()
            .map(|from| (from.as_str(), self.reached(from)))
            .collect();
        let mut circles = BTreeSet::new();
        for (from, reached) in &reach {
            if reached.contains(from) {
                let circle = reached
                    .iter()
                    .filter(|other| reach.get(*other).is_some_and(|back| back.contains(from)));
                circles.insert(circle.copied().collect::<Vec<_>>());
            }
        }
        circles.into_iter().collect()
    }

    fn reached(&self, from: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&str> = self.0[from].iter().map(String::as_str).collect();
        while let Some(next) = open.pop() {
            if reached.insert(next) {
                open.extend(self.0.get(next).into_iter().flatten().map(String::as_str));
            }
        }
        reached
    }
}

/// Names at the root of a crate.
#[derive(Default)]
struct Names {
    modules: BTreeSet<String>,
    /// The module of what the root names again.
    again: BTreeMap<String, String>,
}

impl Names {
    fn again(&mut self, tree: &UseTree, path: &mut Vec<String>) {
        match tree {
            UseTree::Path(step) => {
                path.push(step.ident.to_string());
                self.again(&step.tree, path);
                path.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.again(tree, path)),
            UseTree::Name(name) => self.note(name.ident.to_string(), path),
            UseTree::Rename(rename) => self.note(rename.rename.to_string(), path),
            UseTree::Glob(_) => {}
        }
    }

    fn note(&mut self, name: String, path: &[String]) {
        let first = path.iter().find(|step| *step != "crate" && *step != "self");
        if let Some(module) = first.filter(|first| self.modules.contains(*first)) {
            self.again.insert(name, module.clone());
        }
    }

    /// The module of a name at the root.
    fn module(&self, name: &str) -> Option<&str> {
        let again = || self.again.get(name).map(String::as_str);
        self.modules.get(name).map(String::as_str).or_else(again)
    }
}

/// Gathers the modules that the paths of one file lead to.
struct Reader<'a> {
    names: &'a Names,
    /// How many modules the code stands below the root.
    depth: usize,
    found: BTreeSet<String>,
}

impl Reader<'_> {
    fn path(&mut self, segments: &[String]) {
        let supers = segments
            .iter()
            .take_while(|segment| *segment == "super")
            .count();
        let rest = match segments.first().map(String::as_str) {
            Some("crate") => &segments[1..],
            // `super` as often as modules are above leads to the root.
            Some("super") if supers >= self.depth => &segments[supers..],
            _ => return,
        };
        if let Some(module) = rest.first().and_then(|name| self.names.module(name)) {
            self.found.insert(module.to_owned());
        }
    }

    fn tree(&mut self, tree: &UseTree, path: &mut Vec<String>) {
        match tree {
            UseTree::Path(step) => {
                path.push(step.ident.to_string());
                self.tree(&step.tree, path);
                path.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, path)),
            UseTree::Name(syn::UseName { ident })
            | UseTree::Rename(syn::UseRename { ident, .. }) => {
                path.push(ident.to_string());
                self.path(path);
                path.pop();
            }
            UseTree::Glob(_) => self.path(path),
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, used: &'ast syn::ItemUse) {
        if !is_for_tests(&used.attrs) {
            self.tree(&used.tree, &mut Vec::new());
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_for_tests(&module.attrs) && module.content.is_some() {
            self.depth += 1;
            syn::visit::visit_item_mod(self, module);
            self.depth -= 1;
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if !is_for_tests(&function.attrs) {
            syn::visit::visit_item_fn(self, function);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.path(&segments);
        syn::visit::visit_path(self, path);
    }

    /// What a macro is given is no syntax yet: its words are read one by one.
    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        syn::visit::visit_macro(self, called);
        let text = called.tokens.to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        for start in words
            .windows(3)
            .filter(|words| words[0] == "crate" && words[1] == "::")
        {
            self.path(&["crate".into(), start[2].to_owned()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    /// A crate of these files, as text.
    fn graph(files: &[(&str, &str)]) -> Graph {
        let folder = std::env::temp_dir().join(format!(
            "anchorhold-shape-{}-{}",
            std::process::id(),
            files[0].1.len()
        ));
        for (name, text) in files {
            let file = folder.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let graph = modules(&folder);
        std::fs::remove_dir_all(folder).unwrap();
        graph
    }

    #[test]
    fn a_circle_is_seen_however_a_module_is_named() {
        let lib = "mod a; mod b; pub use crate::a::Thing; pub use b::{Other as Another};";
        for one in [
            "use crate::b::X;",
            "use crate::{b, Error};",
            "use super::b::X;",
            "use crate::Another;",
            "fn f() { crate::b::f() }",
            "fn f() -> crate::Another { todo() }",
            "fn f() { write!(x, \"{}\", crate::b::X) }",
            "mod inner { use super::super::b; }",
        ] {
            let lib = format!("{lib}// {one}");
            let circle = graph(&[
                ("lib.rs", &lib),
                ("a.rs", one),
                ("b.rs", "use crate::Thing;"),
            ]);
            assert_eq!(circle.circles(), [["a", "b"]], "{one}");
        }
        for one in [
            "use other::b::X;",
            "#[cfg(test)] mod tests { use crate::b::X; }",
            "#[cfg(test)] use crate::b::X;",
            "#[cfg(test)] fn f() { crate::b::f() }",
            "#[test] fn f() { crate::b::f() }",
            "mod inner { use super::b; }",
            "// use crate::b::X;",
            "use crate::Thing;",
        ] {
            let lib = format!("{lib}// no {one}");
            let none = graph(&[
                ("lib.rs", &lib),
                ("a.rs", one),
                ("b.rs", "use crate::Thing;"),
            ]);
            assert!(none.circles().is_empty(), "{one}");
        }
        let child = graph(&[
            ("lib.rs", "mod a; mod b; //"),
            ("a/mod.rs", ""),
            ("a/deep.rs", "use crate::b;"),
            ("b.rs", "use super::a;"),
        ]);
        assert_eq!(child.circles(), [["a", "b"]]);
        let folder = graph(&[
            ("lib.rs", "mod a; mod b; //  "),
            ("a/mod.rs", "use super::b;"),
            ("b.rs", "use super::a;"),
        ]);
        assert_eq!(folder.circles(), [["a", "b"]]);
        let three = graph(&[
            ("lib.rs", "mod a; mod b; mod c; mod d;"),
            ("a.rs", "use crate::b;"),
            ("b.rs", "use crate::c;"),
            ("c.rs", "use crate::a;"),
            ("d.rs", "use crate::a;"),
        ]);
        assert_eq!(three.circles(), [["a", "b", "c"]]);
    }

    #[test]
    fn modules_stand_in_no_circle() {
        let mut read = 0;
        for room in crate::rooms(&root()) {
            let source = root().join(&room.folder).join("src");
            if !source.join("lib.rs").exists() {
                continue;
            }
            let graph = modules(&source);
            assert_eq!(graph.circles(), Vec::<Vec<&str>>::new(), "{}", room.folder);
            read += graph.0.len();
        }
        assert!(read > 100, "{read}");
    }
}
