//! Facts about this process, read from `/proc` at each scrape.

use std::fs;

/// Facts about this process; nothing where the system does not provide one.
#[derive(Debug, Default)]
pub(super) struct ProcessUsage {
    pub(super) open_files: Option<u64>,
    pub(super) most_files: Option<u64>,
    pub(super) resident_bytes: Option<u64>,
}

impl ProcessUsage {
    pub(super) fn read() -> Self {
        let file = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        Self {
            // Reading the folder opens it: one descriptor less.
            open_files: fs::read_dir("/proc/self/fd").ok().map(|files| (files.count() as u64).saturating_sub(1)),
            most_files: most_files(&file("limits")),
            resident_bytes: resident_bytes(&file("status")),
        }
    }
}

/// Reads the soft limit, the first number of its line.
fn most_files(limits: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn resident_bytes(status: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(
            most_files("Limit   Soft Limit\nMax open files            1024                 4096     files\n"),
            Some(1024)
        );
        assert_eq!(resident_bytes("VmPeak:\t  10 kB\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!((most_files(""), resident_bytes("")), (None, None));
    }

    #[test]
    fn knows_this_process() {
        let process = ProcessUsage::read();
        assert!(process.open_files > Some(2) && process.most_files > process.open_files, "{process:?}");
        assert!(process.resident_bytes > Some(1 << 20), "{process:?}");
    }
}
