//! Which crates know which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A crate of the workspace.
#[derive(Debug, PartialEq, Eq)]
pub struct Room {
    /// Its folder, from that of the workspace.
    pub folder: String,
    /// Folders of the crates of ours that it depends on, but for its tests.
    pub needs: BTreeSet<String>,
}

fn table(file: &Path) -> toml::Table {
    let text =
        std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.parse()
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The crates of the workspace.
pub fn rooms(root: &Path) -> Vec<Room> {
    let workspace = table(&root.join("Cargo.toml"));
    let workspace = workspace["workspace"].as_table().expect("a workspace");
    let named = workspace["dependencies"]
        .as_table()
        .expect("a table of dependencies");
    let paths: BTreeMap<&str, &str> = named
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.get("path")?.as_str()?)))
        .collect();
    let members = workspace["members"].as_array().expect("a list of members");
    let folders = members
        .iter()
        .map(|member| member.as_str().expect("a folder").to_owned());
    folders
        .map(|folder| {
            let manifest = table(&root.join(&folder).join("Cargo.toml"));
            let needed = ["dependencies", "build-dependencies"]
                .into_iter()
                .filter_map(|kind| manifest.get(kind)?.as_table());
            let needs = needed
                .flat_map(toml::Table::keys)
                .filter_map(|name| paths.get(name.as_str()));
            Room {
                needs: needs.map(|path| (*path).to_owned()).collect(),
                folder,
            }
        })
        .collect()
}

/// What each crate may depend on by the table of docs/design.md, "Rooms", and what it depends on
/// all the same.
pub fn wrong_edges(rooms: &[Room], page: &str) -> Vec<String> {
    let rows: BTreeMap<&str, Vec<&str>> = page.lines().filter_map(row).collect();
    let mut wrong = Vec::new();
    for room in rooms {
        let Some(allowed) = rows.get(room.folder.as_str()) else {
            wrong.push(format!("{} has no row", room.folder));
            continue;
        };
        let refused = room
            .needs
            .iter()
            .filter(|needed| !allowed.contains(&needed.as_str()) && *allowed != ["all"]);
        wrong.extend(refused.map(|needed| format!("{} depends on {needed}", room.folder)));
        // What the page allows and nobody needs is no longer true.
        let unneeded = allowed
            .iter()
            .filter(|name| !["all", "-"].contains(*name) && !room.needs.contains(**name));
        wrong.extend(unneeded.map(|name| format!("{} does not depend on {name}", room.folder)));
    }
    let unknown = rows
        .keys()
        .filter(|folder| !rooms.iter().any(|room| room.folder == **folder));
    wrong.extend(unknown.map(|folder| format!("{folder} is no crate")));
    wrong
}

/// A row of the table: folder, and the last cell's names.
fn row(line: &str) -> Option<(&str, Vec<&str>)> {
    let cells: Vec<&str> = line
        .strip_prefix("| `")?
        .strip_suffix(" |")?
        .split(" | ")
        .collect();
    let [folder, _, needs] = cells[..] else {
        return None;
    };
    Some((folder.strip_suffix('`')?, needs.split(", ").collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    #[test]
    fn crates_know_those_only_that_the_table_of_rooms_lets_them() {
        let page = std::fs::read_to_string(root().join("docs/design.md")).unwrap();
        let rooms = rooms(&root());
        assert!(rooms.len() > 10);
        assert_eq!(wrong_edges(&rooms, &page), Vec::<String>::new());
    }

    #[test]
    fn an_edge_against_the_table_is_seen() {
        let room = |folder: &str, needs: &[&str]| Room {
            folder: folder.into(),
            needs: needs.iter().map(|n| (*n).into()).collect(),
        };
        let page = "| crate | holds | may depend on |\n|---|---|---|\n| `a` | x | - |\n| `b/c` | y | a |\n| `t` | z | all |\n";
        let wrong = |rooms: &[Room]| wrong_edges(rooms, page);
        assert!(
            wrong(&[
                room("a", &[]),
                room("b/c", &["a"]),
                room("t", &["a", "b/c"])
            ])
            .is_empty()
        );
        assert_eq!(
            wrong(&[room("a", &["b/c"]), room("b/c", &["a"]), room("t", &[])]),
            ["a depends on b/c"]
        );
        assert_eq!(
            wrong(&[room("a", &[]), room("b/c", &[]), room("t", &[])]),
            ["b/c does not depend on a"]
        );
        assert_eq!(
            wrong(&[room("a", &[]), room("b/c", &["a"])]),
            ["t is no crate"]
        );
        let more = [
            room("a", &[]),
            room("b/c", &["a"]),
            room("t", &[]),
            room("u", &[]),
        ];
        assert_eq!(wrong(&more), ["u has no row"]);
    }
}
