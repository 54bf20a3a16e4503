//! The house keeps its shape: imports go one way, and the pure rooms stay pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// From the bottom to the top: a room may import what stands before it.
const ORDER: [&[&str]; 6] = [
    &["event"],
    &["log"],
    &["store"],
    &["hub", "presence"],
    // The edge: one room in several folders.
    &["http", "layers", "admin", "auth"],
    &["cli"],
];
/// These serve all but the pure rooms.
const SERVANTS: [&str; 2] = ["config", "telemetry"];
const PURE: [&str; 2] = ["event", "log"];

struct Source {
    path: PathBuf,
    /// The folder or file below `src/`.
    room: String,
    /// Without comments and without the unit tests at the end.
    code: String,
    text: String,
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 20, "the sources were found");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(&root).unwrap().to_owned();
        let room = path.components().next().unwrap().as_os_str();
        let room = room.to_str().unwrap().trim_end_matches(".rs").to_owned();
        let before_tests = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code = before_tests.lines().map(without_comment);
        Source {
            code: code.collect::<Vec<_>>().join("\n"),
            path,
            room,
            text,
        }
    };
    files.into_iter().map(read).collect()
}

fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// The rooms that a piece of code names after `crate::`, also in braces: `use crate::{event::{A, B}, log::C}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let Some(list) = after.trim_start().strip_prefix('{') else {
            rooms.extend(words(after).next().map(str::to_owned));
            continue;
        };
        let (mut depth, mut begins, mut name) = (1, true, String::new());
        for character in list.chars() {
            if begins && depth == 1 && (character.is_alphanumeric() || character == '_') {
                name.push(character);
                continue;
            }
            if !name.is_empty() {
                rooms.insert(std::mem::take(&mut name));
                begins = false;
            }
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => begins = true,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    rooms
}

fn rank(room: &str) -> Option<usize> {
    ORDER.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn imports_are_found_in_whatever_way_they_are_written() {
    let code = "use crate::event::Topic; use crate::{\n    event::{EventId, Topic},\n    log, hub::Hub,\n};\nfn f() -> crate::store::X {}";
    let found: Vec<_> = imports(code).into_iter().collect();
    assert_eq!(found, ["event", "hub", "log", "store"]);
}

#[test]
fn every_room_is_known() {
    for source in sources() {
        let room = source.room.as_str();
        assert!(
            ["main", "lib"].contains(&room) || SERVANTS.contains(&room) || rank(room).is_some(),
            "{}: say in this test where the room stands",
            source.path.display()
        );
    }
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(own) = rank(&source.room) else {
            continue;
        };
        for room in imports(&source.code) {
            let allowed = match rank(&room) {
                Some(other) => other <= own,
                None => !SERVANTS.contains(&room.as_str()) || !PURE.contains(&source.room.as_str()),
            };
            if !allowed {
                wrong.push(format!("{} imports {room}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// `config` and `telemetry` may name the types that they are about, but then those rooms may not name them.
#[test]
fn no_two_rooms_import_each_other() {
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let is_room = |room: &str| SERVANTS.contains(&room) || rank(room).is_some();
    let name = |room: &str| match rank(room) {
        Some(place) => ORDER[place][0].to_owned(),
        None => room.to_owned(),
    };
    for source in sources() {
        if is_room(&source.room) {
            let rooms = imports(&source.code);
            let rooms = rooms.iter().filter(|room| is_room(room));
            arrows
                .entry(name(&source.room))
                .or_default()
                .extend(rooms.map(|room| name(room)));
        }
    }
    for (room, targets) in &arrows {
        for target in targets.iter().filter(|target| *target != room) {
            let back = arrows.get(target).is_some_and(|rooms| rooms.contains(room));
            assert!(!back, "{room} and {target} import each other: {arrows:#?}");
        }
    }
    for servant in SERVANTS {
        for above in ["http", "cli"] {
            let serves = arrows
                .get(servant)
                .is_some_and(|rooms| rooms.contains(above));
            assert!(!serves, "{servant} imports {above}");
        }
    }
}

/// A path over `super` would lead out of a room unseen.
#[test]
fn rooms_are_left_through_the_front_door() {
    for source in sources() {
        let depth = source.path.components().count();
        let in_mod_file = source.path.ends_with("mod.rs");
        // `super` of `hub/mod.rs` is the crate, and so is `super::super` of `hub/lane.rs`.
        let out = match (depth, in_mod_file) {
            (1, _) => continue,
            (2, true) => "super::".to_owned(),
            (depth, in_mod_file) => "super::".repeat(depth - usize::from(in_mod_file)),
        };
        for line in source.code.lines() {
            let leads_out = line.contains(&out);
            assert!(!leads_out, "{}: {line}", source.path.display());
        }
    }
}

/// No I/O, no clock, no runtime: time comes in as an argument.
#[test]
fn the_pure_rooms_are_pure() {
    let forbidden = [
        "tokio",
        "hyper",
        "http",
        "http_body",
        "tower",
        "parking_lot",
        "redis",
        "Instant",
        "SystemTime",
        "tracing",
    ];
    for source in sources() {
        if !PURE.contains(&source.room.as_str()) {
            continue;
        }
        for word in words(&source.code) {
            let path = source.path.display();
            assert!(!forbidden.contains(&word), "{path} names {word}");
        }
        for module in ["std::net", "std::fs", "std::io", "std::thread", "std::env"] {
            let path = source.path.display();
            assert!(!source.code.contains(module), "{path} names {module}");
        }
    }
}

/// The reader decides there whether to read on.
#[test]
fn every_file_opens_with_what_it_is_for() {
    for source in sources() {
        let path = source.path.display();
        assert!(source.text.starts_with("//! "), "{path}");
    }
}
