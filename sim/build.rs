//! Links `src/chance.c` into whatever runs the simulator.

fn main() {
    println!("cargo:rerun-if-changed=src/chance.c");
    // The whole archive: nothing refers to it by name.
    cc::Build::new().file("src/chance.c").link_lib_modifier("+whole-archive").compile("chance");
}
