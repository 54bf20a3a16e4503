//! Every parser of foreign bytes keeps what its fuzz target asks of it, over the hand-made seeds and over inputs like them.
//!
//! Fuzzing needs a nightly toolchain and time; this needs neither, so it runs with every change. An input that a fuzzer
//! finds becomes a file in `fuzz/seeds`, named for what is special about it.

#[path = "../fuzz/oracles.rs"]
mod oracles;

use std::{fs, path::Path};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

/// Generated inputs of each parser.
const CASES: u32 = 3_000;

/// The seeds of a target by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut seeds: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|file| {
            let file = file.unwrap();
            (
                file.file_name().to_string_lossy().into_owned(),
                fs::read(file.path()).unwrap(),
            )
        })
        .collect();
    seeds.sort();
    assert!(seeds.len() >= 8, "{target} has {} seeds", seeds.len());
    seeds
}

/// A seed with some bytes of it replaced, repeated, or taken away.
fn bent(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0_u8..4, any::<u8>());
    (
        prop::sample::select(seeds),
        prop::collection::vec(change, 0..6),
    )
        .prop_map(|(mut bytes, changes)| {
            for (at, kind, byte) in changes {
                let at = at.index(bytes.len() + 1);
                match kind {
                    0 => bytes.insert(at, byte),
                    1 if at < bytes.len() => bytes[at] = byte,
                    2 if at < bytes.len() => drop(bytes.remove(at)),
                    _ => bytes.extend_from_within(at..),
                }
            }
            bytes
        })
}

/// Runs an oracle over its seeds, over bent seeds, and over texts of the given shape.
fn hold(target: &str, shape: &'static str, oracle: fn(&[u8])) {
    let seeds = seeds(target);
    for (name, bytes) in &seeds {
        // The name stands before the panic of the oracle.
        println!("fuzz/seeds/{target}/{name}");
        oracle(bytes);
    }
    let bytes = seeds.into_iter().map(|(_, bytes)| bytes).collect();
    let inputs = prop_oneof![
        bent(bytes),
        proptest::string::string_regex(shape)
            .unwrap()
            .prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    // What fails is printed in its smallest form and becomes a seed by hand; a second store of failures would hide it.
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&inputs, |bytes| {
        oracle(&bytes);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{target}: {error}");
    }
}

#[test]
fn a_cursor_is_read_as_it_was_written() {
    hold(
        "cursor",
        r"([0-9]{0,21}-[0-9]{0,3}|0-0|18446744073709551615-[0-9]{18,20})(\n[0-9]{1,3}-[0-9])?",
        oracles::cursor,
    );
}

#[test]
fn a_topic_is_a_name_by_the_rules_and_a_list_names_each_once() {
    hold(
        "topic",
        r"([a-c$]{0,2}[,\n]){0,5}[a-c/.:{*é\u{85}\u{2003} ]{0,4}",
        oracles::topic,
    );
}

#[test]
fn an_event_in_json_is_read_as_any_parser_reads_it() {
    let shape = r#"\{ ?("(topic|event|data|key|end|dat)" ?: ?("[a-c$\\n ]{0,4}"|true|null|-?[0-9]{1,3}(\.5)?|\[1 , \{"a": "\\" "\}\]|\{\}),?){0,4} ?\}"#;
    hold("publish_json", shape, oracles::publish_json);
}

#[test]
fn a_message_of_a_client_wants_what_any_parser_reads_in_it() {
    let shape = r#"\{ ?(("type":"(subscribe|unsubscribe|publish|ping|pin)"|"ref":("[a\\u00e9]{0,3}"|-?[0-9]{1,3}|null|\[\])|"topics":\[("[a-c]{1,2}",){0,3}"[a-d$]"\]|"lastEventId":("[0-9]-[0-9]"|"earliest"|""|null)|"since":("5m"|"x"|[0-9]{1,4})|"last":("[0-9]{1,4}"|-?[0-9]{1,4})|"topic":"[a-c]{1,2}"|"data":("[a-c\\n ]{0,3}"|\[1 , 2\]|null)|"end":(true|false)|"key":"[a-z]{0,2}"),){0,4}"type":"(subscribe|unsubscribe|publish|ping)" ?\}"#;
    hold("ws_message", shape, oracles::ws_message);
}

#[test]
fn a_query_says_what_was_put_into_it_and_where_to_start() {
    let shape = r"([0-9]{1,2}-[0-9]|x)?(\n((lastEventId|last_event_id|since|last|topic|control|envelope)=([0-9]{1,4}(-[0-9])?|earliest|5m|off|json|1970-01-01T00:00:01(Z|%2B01:00)|%[0-9a-g]{0,2}|\+)?&){0,4})?";
    hold("query", shape, oracles::query);
}

#[test]
fn a_frame_is_read_back_as_the_event_that_it_was_made_of() {
    let shape = r"([0-9]{1,3}-[0-9])?\n([a-z]{1,4})?\n([a-z]{1,4})?\n((data|id|event|retry|topic|)?:? ?[a-z0-9\u{2028}é]{0,3}(\r\n|\r|\n)){0,8}";
    hold("frame", shape, oracles::frame);
}

#[test]
fn what_redis_sends_is_read_however_it_is_cut() {
    let shape = r"[\x01-\x20]((\+|-|:|,|\$|\*|>|%|\||!|=|#|_|~|\()([0-3]|-1|t|ab)?\r\n([a-c]{1,3}\r\n)?){0,8}";
    hold("resp", shape, oracles::resp);
}

#[test]
fn what_waits_in_ingest_is_read_though_texts_are_passed_over() {
    let shape = r"[\x01-\x20]\*2\r\n\+s\r\n\*[1-3]\r\n(\*2\r\n\+[0-9]-[0-9]\r\n\*[0-4]\r\n((\$5\r\ntopic|\$3\r\nkey|\$[0-4]\r\n[a-c]{0,4}|=6\r\ntxt:ab)\r\n){0,4}){0,3}";
    hold("ingest", shape, oracles::ingest);
}

#[test]
fn a_message_of_the_feed_is_what_the_function_writes() {
    let shape = r"[0-9]{1,2}-[0-9] [0-9]{1,2}-[0-9] [exdy]( [a-c$ \n]{0,4})?(\n[a-c\r\né]{0,4})?";
    hold("feed", shape, oracles::feed);
}

#[test]
fn nobody_gets_in_with_what_was_not_made_for_it() {
    let shape = r#"((Bearer|bearer|Basic|) {0,2}([a-z0-9A-Z_-]{0,8}\.?){0,4}[ \t]?)?\n((tidegate|a)=?"?[a-z]{0,3}"?; ?){0,3}\n((ticket|access_token|topic)=([a-z0-9._-]{0,6}|%[0-9A-F]{2})&?){0,3}"#;
    hold("token", shape, oracles::token);
}
