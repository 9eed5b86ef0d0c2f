//! How much memory the process may have.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// The smallest of physical memory, the cgroup's limit and RLIMIT_AS.
pub(crate) fn available() -> u64 {
    let address_space = getrlimit(Resource::As).current.unwrap_or(u64::MAX);
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
        .min()
        .unwrap_or(u64::MAX);
    physical().min(address_space).min(cgroup)
}

fn physical() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}
