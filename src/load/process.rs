//! What the kernel says of the server's process: CPU time and memory (proc(5), `stat` and `statm`).

use anyhow::Context;

/// A reading.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// In user space and in the kernel, of all threads.
    pub cpu_ns: u64,
    /// Resident.
    pub rss_bytes: u64,
}

impl Usage {
    /// Reads it now.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/{file}"))
                .with_context(|| format!("no process {pid}"))
        };
        let ticks = cpu_ticks(&read("stat")?).context("/proc/PID/stat")?;
        let pages: u64 = read("statm")?.split(' ').nth(1).context("/proc/PID/statm")?.parse()?;
        Ok(Self {
            cpu_ns: ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second()),
            rss_bytes: pages * rustix::param::page_size() as u64,
        })
    }
}

/// Fields 14 and 15; the name in field 2 may hold anything, so counting begins behind its parenthesis.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_does_not_mislead() {
        assert_eq!(cpu_ticks("1 (a) b) S 1 2 3 4 5 6 7 8 9 10 70 7 0 0 20"), Some(77));
        assert_eq!(cpu_ticks("1 (a) S 1"), None);
        assert!(Usage::of(std::process::id()).is_ok_and(|usage| usage.rss_bytes > 0));
    }
}
