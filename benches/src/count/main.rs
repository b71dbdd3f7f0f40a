//! `count`: fixed pieces of work for valgrind to count the instructions of; `benches/instructions` calls it.
//!
//! Without an argument it names the cases, and how many operations each has; with a case's name it does that work once, in
//! [`measured`], the only function that is counted. What is made ready before stays outside.

mod cases;
#[path = "../../../turn/benches/work/mod.rs"]
mod relay;
#[path = "../../../media/benches/work/mod.rs"]
#[allow(dead_code)] // the benches there use more of it
mod sfu;

use cases::CASES;

/// Named in `benches/instructions`.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

fn main() -> anyhow::Result<()> {
    let Some(name) = std::env::args().nth(1) else {
        for case in CASES {
            println!("{} {}", case.name, case.operations);
        }
        return Ok(());
    };
    let Some(case) = CASES.iter().find(|case| case.name == name) else {
        anyhow::bail!("no case is named {name}")
    };
    let mut work = (case.prepare)();
    measured(&mut *work);
    Ok(())
}
