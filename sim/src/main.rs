//! The simulator's command line: one seed with everything it has to tell, a sweep over many, or the scoreboard.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::{Parser, Subcommand};
use sim::{Failure, Kind, Plan};

#[derive(Parser)]
#[command(about = "Runs Causeway's cores in a simulated world and watches")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One seed: prints its plan, and on failure the last steps and a capture file.
    Run {
        /// The run.
        #[arg(long)]
        seed: u64,
        /// Only these kinds of trouble, by name, instead of those of the seed (`--trouble none` for none).
        #[arg(long, value_delimiter = ',')]
        trouble: Option<Vec<String>>,
        /// Where the capture of a failed run goes.
        #[arg(long, default_value = "sim.pcap")]
        pcap: String,
    },
    /// Many seeds, on all cores; exits with 0 only when every one holds.
    Sweep {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value_t = 0)]
        start: u64,
        /// End with the first seed that fails.
        #[arg(long)]
        fail_fast: bool,
    },
    /// What a subscriber gets on bad links, as a table.
    Scoreboard {
        /// Into this file instead.
        #[arg(long, conflicts_with = "check")]
        write: Option<PathBuf>,
        /// Held against the table in this file: exits with 0 when it is about the same.
        #[arg(long)]
        check: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { seed, trouble, pcap } => one(seed, trouble, &pcap),
        Command::Sweep { seeds, start, fail_fast } => sweep(start, seeds, fail_fast),
        Command::Scoreboard { write, check } => match scoreboard(write.as_deref(), check.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn one(seed: u64, trouble: Option<Vec<String>>, pcap: &str) -> ExitCode {
    let mut plan = Plan::of(seed);
    if let Some(names) = trouble {
        plan.kinds = Vec::new();
        for name in names.iter().filter(|name| *name != "none") {
            match Kind::named(name) {
                Some(kind) => plan.kinds.push(kind),
                None => {
                    eprintln!("--trouble: {name} is none of {:?}", Kind::ALL);
                    return ExitCode::from(2);
                }
            }
        }
    }
    println!("{plan}");
    match sim::run(plan) {
        Ok(summary) => {
            println!("{summary:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            tell(seed, &failure);
            match File::create(pcap).map(BufWriter::new) {
                Ok(mut file) => match sim::pcap::write(&mut file, failure.capture.iter()) {
                    Ok(()) => println!("capture: {pcap}"),
                    Err(error) => eprintln!("{pcap}: {error}"),
                },
                Err(error) => eprintln!("{pcap}: {error}"),
            }
            ExitCode::FAILURE
        }
    }
}

fn tell(seed: u64, failure: &Failure) {
    for line in &failure.trace {
        println!("{line}");
    }
    let violation = &failure.violation;
    println!(
        "seed={seed} at={:.3}s oracle={}: {}",
        failure.at.as_secs_f64(),
        violation.oracle,
        violation.what
    );
}

fn sweep(start: u64, seeds: u64, fail_fast: bool) -> ExitCode {
    #[allow(clippy::disallowed_methods)] // how fast the simulator itself is
    let begun = Instant::now();
    let (next, failed, done) = (AtomicU64::new(start), AtomicU64::new(0), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = fail_fast && failed.load(Ordering::Relaxed) > 0;
                    if seed >= start + seeds || enough {
                        return;
                    }
                    let plan = Plan::of(seed);
                    if let Err(failure) = sim::run(plan.clone()) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        let violation = &failure.violation;
                        println!("FAILED {plan}\n  {}: {}", violation.oracle, violation.what);
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done % 100 == 0 {
                        eprintln!("{done} of {seeds}");
                    }
                }
            });
        }
    });
    let (failed, seeds) = (failed.into_inner(), done.into_inner());
    let rate = seeds as f64 / begun.elapsed().as_secs_f64();
    println!("seeds={seeds} failed={failed} runs/s={rate:.1}");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn scoreboard(write: Option<&Path>, check: Option<&Path>) -> Result<(), String> {
    let outcomes = sim::scoreboard::play()?;
    let table = sim::scoreboard::table(&outcomes);
    if let Some(file) = write {
        return std::fs::write(file, table).map_err(|error| format!("{}: {error}", file.display()));
    }
    print!("{table}");
    let Some(file) = check else { return Ok(()) };
    let committed = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    match sim::scoreboard::differences(&outcomes, &committed) {
        differences if differences.is_empty() => Ok(()),
        differences => Err(format!(
            "{}\nIf that is as it should be: cargo run -p sim --release -- scoreboard --write {}",
            differences.join("\n"),
            file.display()
        )),
    }
}
