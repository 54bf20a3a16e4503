# Every routine of this repository by name. Each recipe is a plain command, which works without `just`, too.

# What there is.
default:
    @just --list

# The gateway, as a newcomer runs it.
run *arguments:
    cargo run --release -- {{arguments}}

# Format and lints, warnings as errors.
check:
    cargo fmt --all --check
    rustfmt --edition 2024 --check fuzz/fuzz_targets/*.rs tests/interop/*/src/*.rs examples/publish/rust/src/*.rs
    cargo clippy --workspace --all-targets -- --deny warnings

# The whole test suite, as CI runs it.
test:
    scripts/test

# Only the Rust tests, or those of them whose name contains a word.
test-rust *word:
    cargo test --workspace -- {{word}}

# Storms over three replicas and one Redis: so many seeds (or "7-9"), each for so many seconds, in each of three weathers.
chaos seeds="20" seconds="20":
    TIDEGATE_CHAOS_SEEDS={{seeds}} TIDEGATE_CHAOS_SECONDS={{seconds}} cargo test --test promises chaos:: -- --nocapture

# Only the real browsers; the words go to `node --test`.
test-browser *words:
    cargo build
    tests/browser/run {{words}}

# Licences, advisories, duplicates (needs cargo-deny).
deny:
    cargo deny check

# The benchmarks, or one of them: encode, fanout, resume.
bench *name:
    cargo bench {{ if name == "" { "" } else { "--bench " + name } }}

# One fuzz target for some seconds: cursor, topic, publish_json, query, frame, resp, feed, ingest, token, ws_message (needs cargo-fuzz and a nightly toolchain).
fuzz target seconds="60":
    mkdir -p fuzz/corpus/{{target}}
    cargo +nightly fuzz run {{target}} fuzz/corpus/{{target}} fuzz/seeds/{{target}} -- -max_total_time={{seconds}}

# The Autobahn suite against the gateway's WebSocket (root, apt, a Debian mirror with bullseye): the cases are the arguments.
autobahn *cases:
    scripts/autobahn {{cases}}

# All figures beside their goals: about ten minutes. `just load --quick` takes one; `just load --redis` is what goes through Redis.
load *arguments:
    cargo build --release
    cargo run --release -p tidegate-loadtest -- table {{arguments}}

# The documentation of the code.
doc:
    cargo doc --no-deps --document-private-items --open
