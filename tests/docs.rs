//! The reference says what the code does: no error code and no metric is missing or made up, and no link leads nowhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use http::StatusCode;
use tidegate::telemetry::{
    Metrics,
    metrics::{RequestLabels, Snapshot},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Error codes and their statuses, as `Code::parts` has them: `Self::X => ("code", S::STATUS, "Title")`.
fn codes() -> BTreeMap<String, u16> {
    let statuses: BTreeMap<String, u16> = (100..600)
        .filter_map(|number| {
            let reason = StatusCode::from_u16(number).ok()?.canonical_reason()?;
            Some((
                reason
                    .to_uppercase()
                    .replace([' ', '-'], "_")
                    .replace('\'', ""),
                number,
            ))
        })
        .collect();
    let source = read("src/http/problem.rs");
    let tokens: Vec<&str> = source.split_whitespace().collect();
    let codes: BTreeMap<String, u16> = tokens
        .windows(2)
        .filter_map(|pair| {
            let code = pair[0]
                .trim_start_matches('(')
                .strip_prefix('"')?
                .strip_suffix("\",")?;
            let status = pair[1].strip_prefix("S::")?.trim_end_matches(',');
            Some((code.to_owned(), statuses[status]))
        })
        .collect();
    assert!(codes.len() > 25, "the codes could not be read: {codes:?}");
    codes
}

#[test]
fn every_error_code_is_explained_with_its_status() {
    let documented: BTreeMap<String, u16> = read("docs/errors.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let code = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some((code.to_owned(), cells.next()?.parse().ok()?))
        })
        .collect();
    assert_eq!(documented, codes());
}

#[test]
fn every_metric_is_explained() {
    let metrics = Metrics::new("redis", Some(tidegate::telemetry::Latencies::default()));
    // A family with labels shows itself with its first value.
    let labels = RequestLabels {
        method: "GET",
        route: "/events",
        status: 200,
    };
    metrics.requests(&labels).observe(0.0);
    metrics.gap("retention");
    metrics.refused("draining", false);
    // What only one kind of store has, all at once.
    let everything = Snapshot {
        holds: Some([0; 4]),
        presence: Some([0; 4]),
        redis: Some([0; 4]),
        ingest: Some([0; 7]),
        ..Snapshot::default()
    };
    let text = metrics.encode(&everything).unwrap();
    let exported: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let operations = read("docs/operations.md");
    let (_, section) = operations.split_once("## Metrics").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    // The first column names the families.
    let documented: BTreeSet<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
        .flat_map(|cell| cell.split([',', '`', ' ']))
        .filter(|name| name.contains('_'))
        .collect();
    let missing: Vec<_> = exported.difference(&documented).collect();
    let made_up: Vec<_> = documented.difference(&exported).collect();
    assert!(
        missing.is_empty() && made_up.is_empty(),
        "missing: {missing:?}, made up: {made_up:?}"
    );
}

/// Markdown of ours, without what was installed or built.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let foreign = ["target", "node_modules", ".git"]
            .iter()
            .any(|foreign| name == *foreign);
        if path.is_dir() && !foreign {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The anchor of a heading, as renderers of Markdown make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars()
        .filter(|c| c.is_alphanumeric() || "-_".contains(*c))
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut found = Vec::new();
    pages(root(), &mut found);
    assert!(found.len() > 8, "{found:?}");
    let mut dead = Vec::new();
    for page in &found {
        let text = fs::read_to_string(page).unwrap();
        for (_, rest) in text
            .match_indices("](")
            .map(|(at, _)| text.split_at(at + 2))
        {
            let target = rest.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let linked = if file.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(file)
            };
            let there = match fs::read_to_string(&linked) {
                Ok(text) if !fragment.is_empty() => text
                    .lines()
                    .filter_map(|line| line.strip_prefix('#'))
                    .any(|heading| anchor(heading.trim_start_matches('#')) == fragment),
                // A picture is no text, and a folder no file.
                _ => linked.exists(),
            };
            if !there {
                dead.push(format!(
                    "{}: {target}",
                    page.strip_prefix(root()).unwrap().display()
                ));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}
