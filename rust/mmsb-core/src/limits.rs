//! How much memory the process may have.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

/// The smallest of physical memory, the cgroup's limit, and half of what RLIMIT_AS leaves. Half, because an arena
/// takes all its address space when it is made, and the log of a bus in memory may take as much again.
pub(crate) fn available() -> u64 {
    let left = |limit: u64| limit.saturating_sub(address_space()) / 2;
    let address_space = getrlimit(Resource::As).current.map_or(u64::MAX, left);
    physical().min(address_space).min(cgroup())
}

/// What this process has taken.
fn address_space() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').next().and_then(|pages| pages.parse().ok()).unwrap_or(0);
    rustix::param::page_size() as u64 * pages
}

fn physical() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}

/// The least limit of the process's cgroup and those above it.
fn cgroup() -> u64 {
    let limit = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut least = u64::MAX;
    for line in groups.lines() {
        let Some((controllers, path)) =
            line.split_once(':').and_then(|(_, rest)| rest.split_once(':'))
        else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            c if c.split(',').any(|c| c == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let inside = Path::new(path.trim_start_matches('/'));
        for group in inside.ancestors() {
            least = least.min(limit(Path::new(root).join(group).join(file)).unwrap_or(u64::MAX));
        }
    }
    least
}
