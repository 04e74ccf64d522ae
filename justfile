# The recipes that CI runs, and those for every day. https://just.systems

# Every test
test:
    tests/run

# What a change must pass
ci:
    .ci/run

# Build the production image twice, differently, and compare every byte
reproducible:
    tests/reproducible --both

# The images, into target/images
images:
    tests/images

# The whole story once
demo:
    cargo run --release --bin anchorhold-dev -- demo

# Every figure of docs/benchmarks.md
bench:
    cargo build --release --workspace --bins
    cargo run --release --bin anchorhold-bench

# The production programs, each built alone
production:
    cargo build --release --locked -p anchorhold-enclave
    cargo build --release --locked -p anchorhold-parent-proxy
    cargo build --release --locked -p anchorhold-attestation

# Write docs/openapi.json anew
openapi:
    cargo run --release --bin anchorhold -- openapi > docs/openapi.json

# Write attestation/tests/vectors anew
vectors:
    ANCHORHOLD_WRITE_VECTORS=1 cargo test --release -p anchorhold-tests --test e2e vectors

# Write the help texts of tests/cmd anew
help:
    TRYCMD=overwrite cargo test --release -p anchorhold-tests --test e2e commands::every

# Change one check of the verifier after the other and see the demonstration fail
break-checks:
    tests/break-checks
