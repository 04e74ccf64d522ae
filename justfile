# The recipes that CI runs, and those for every day. https://just.systems

# Every test
test:
    tests/run

# What a change must pass
ci:
    .ci/run

# Format, lints, circles, unit tests: the everyday loop
check:
    tests/check

# What takes too long for every change: README's first command as it is written, every test on programs as they are installed, an eighth of
# the mutants, broken promises, an hour and a half of fuzzing, both images anew, threads in thousands of orders
nightly:
    cargo run --locked --bin anchorhold-dev -- demo
    tests/run --release
    tests/reproducible --both
    ANCHORHOLD_ORDERS=2000 cargo test --locked -p anchorhold-interleavings --features shuttle
    tests/fuzz/run 200
    tests/mutants "$(expr "$(date +%j)" % 8)/8"
    tests/promises/run
    tests/large

# Build the production image twice, differently, and compare every byte
reproducible:
    tests/reproducible --both

# The images, into target/images
images:
    tests/images

# The whole story once
demo:
    cargo run --bin anchorhold-dev -- demo

# Every figure of docs/benchmarks.md
bench:
    cargo build --release --workspace --bins
    cargo run --release --bin anchorhold-bench

# Programs, manual pages and completions, below a prefix
install prefix="/usr/local":
    deploy/install {{prefix}}

# The production programs, each built alone
production:
    cargo build --release --locked -p anchorhold-enclave
    cargo build --release --locked -p anchorhold-parent-proxy
    cargo build --release --locked -p anchorhold-attestation

# Break promises, one at a time, each of which a test must notice; or those of a number, or one part: just promises 20.66, just promises --shard 0/8
promises *which:
    tests/promises/run {{which}}

# Write docs/openapi.json anew
openapi:
    cargo run --release --bin anchorhold -- openapi > docs/openapi.json

# Write docs/errors.md anew, of the enums and of tests/shape/advice.toml
errors:
    cargo run --release -q -p anchorhold-shape -- errors > docs/errors.md

# Write attestation/tests/vectors anew, then what is written of them; read the differences
vectors:
    ANCHORHOLD_WRITE_VECTORS=1 cargo test --release -p anchorhold-tests --test e2e vectors
    ANCHORHOLD_WRITE_VECTORS=1 TRYCMD=overwrite cargo test --release -p anchorhold-attestation --test cases --test command

# Write the help texts of tests/cmd anew
help:
    TRYCMD=overwrite cargo test --release -p anchorhold-tests --test e2e commands::every

# Run every fuzz target for so many seconds, or those that are named: just fuzz 3600 document
fuzz seconds="600" *targets:
    tests/fuzz/run {{seconds}} {{targets}}

# Mutation testing of what strangers run and of what decides, counts and records; all of it, or one part: just mutants 0/8
mutants *which:
    tests/mutants {{which}}
