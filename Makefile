# The few commands a newcomer needs. `cargo run --release` starts Causeway; `make test` proves it.
.PHONY: test test-rust test-client test-browser fuzz sweep scoreboard deny bench instructions dist

# Everything: installs what the tests need when it is missing, then runs all checks (scripts/test says each step).
test:
	@scripts/test all

# The parts of it, for work on one of them.
test-rust:
	@scripts/test rust

test-client:
	@scripts/test client

test-browser:
	@scripts/test browser

# Long fuzzing with AddressSanitizer: TIME=600 seconds for each of TARGETS="rtp sfu" (all of them when not given).
fuzz:
	@scripts/fuzz long $(TARGETS)

# A thousand simulated worlds: SEEDS=1000 START=0.
SEEDS ?= 1000
START ?= 0
sweep:
	cargo run --quiet -p sim --release -- sweep --seeds $(SEEDS) --start $(START)

# How good the picture is on bad links, compared with the committed table.
scoreboard:
	cargo run --quiet -p sim --release -- scoreboard --check sim/scoreboard.txt

# Licences, duplicates and sources of all dependencies, by deny.toml (needs `cargo install --locked cargo-deny`).
deny:
	cargo deny --workspace check licenses bans sources

# In-process cost of a forwarded packet and of the parts of its path, beside its encryption alone, and of a relayed one.
bench:
	cargo bench -p media --bench forward --bench parts
	cargo bench -p turn --bench relay

# Instructions of the same work, beside benches/instructions.txt; `benches/instructions --write` renews that file.
instructions:
	@scripts/test instructions

# The binary that is shipped (thin LTO, stripped): target/dist/causeway
dist:
	cargo build --profile dist
