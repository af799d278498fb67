//! Owns how much memory this machine, or the control group that the node runs in, has; does not share it out.

use std::path::Path;

/// What is taken for the machine's memory where the system does not tell.
const UNKNOWN: u64 = 2 << 30;

/// Bytes that this process may use: those of the machine, or of its control group where that allows fewer.
pub fn available() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine_bytes(&text));
    let group = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| group_bytes(&text, Path::new("/")));
    machine.into_iter().chain(group).min().unwrap_or(UNKNOWN)
}

fn machine_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest limit of the process's groups (version 1 or 2) and those above them, under the root folder `root`.
fn group_bytes(cgroup: &str, root: &Path) -> Option<u64> {
    let mut lowest: Option<u64> = None;
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (base, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        // Inside a container the path may be that of the host: the root of what is mounted is looked at in any case.
        let base = root.join(base);
        let mut folder = base.join(path.trim_start_matches('/'));
        loop {
            let limit = std::fs::read_to_string(folder.join(file)).ok().and_then(|text| text.trim().parse().ok());
            lowest = lowest.into_iter().chain(limit).min();
            if folder == base || !folder.pop() {
                break;
            }
        }
    }
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_tells() {
        assert_eq!(machine_bytes("MemTotal:       24575 kB\nMemFree: 1 kB\n"), Some(24575 * 1024));
        assert_eq!(machine_bytes("nothing"), None);
        assert!(available() > 1 << 20);
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("sys/fs/cgroup");
        std::fs::create_dir_all(group.join("a/b")).unwrap();
        std::fs::write(group.join("a/memory.max"), "1000\n").unwrap();
        std::fs::write(group.join("a/b/memory.max"), "max\n").unwrap();
        assert_eq!(group_bytes("0::/a/b\n", root.path()), Some(1000));
        assert_eq!(group_bytes("0::/elsewhere\n", root.path()), None);
        std::fs::write(group.join("memory.max"), "500\n").unwrap();
        assert_eq!(group_bytes("0::/elsewhere\n", root.path()), Some(500));
        let old = root.path().join("sys/fs/cgroup/memory/x");
        std::fs::create_dir_all(&old).unwrap();
        std::fs::write(old.join("memory.limit_in_bytes"), "400\n").unwrap();
        assert_eq!(group_bytes("7:cpu:/x\n4:hugetlb,memory:/x\n", root.path()), Some(400));
    }
}
