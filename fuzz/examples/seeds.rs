//! Writes the seeds of all targets into their corpora: `cargo run -p fuzz --example seeds`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    for target in fuzz::targets::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}
